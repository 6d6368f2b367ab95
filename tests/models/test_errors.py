import pytest

from allaprima.models.errors import VideoError, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("camera rtsp://user:secret@10.0.0.7:554/s cannot be opened", "camera rtsp://***@10.0.0.7:554/s cannot be opened"),
        ("RTSP://user:p@ss/w?rd@host/s failed", "RTSP://***@host/s failed"),
        ("http://cam/video?user=me&pwd=secret: no answer", "http://cam/video?*** no answer"),
        ("(https://token@cam/a, rtsp://b:c@d/e)", "(https://***@cam/a, rtsp://***@d/e)"),
        ("http://cam/@home and me@example.com", "http://***@home and me@example.com"),
        ("see https://example.com/docs", "see https://example.com/docs"),
        ("a?b@c.png", "a?b@c.png"),
    ],
)
def test_passwords_in_addresses_are_never_shown(text, shown):
    assert without_secrets(text) == shown
    assert str(VideoError(text)) == shown


def test_a_cameras_password_stays_out_of_the_message(run):
    code, _, err = run("webcam", "--camera", "rtsp://user:secret@127.0.0.1:1/s", "--headless", "--frames", "1")
    assert code == 1
    assert "rtsp://***@127.0.0.1:1/s" in err
    assert "secret" not in err
