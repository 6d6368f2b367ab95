from allaprima.training.balance import verdict


def test_the_verdict_names_what_dominates_and_suggests_a_weight_only_if_needed():
    even = verdict(0.7, 0.14, 1.0, 5.0)
    assert "1.0 to 1" in even
    assert "--style-weight" not in even
    from_noise = verdict(0.4, 0.56, 1.0, 8.0)  # the numbers of a training that turned out well
    assert "style dominates the loss, 11.2 to 1" in from_noise
    assert "--style-weight" not in from_noise
    lost = verdict(1.5, 0.06, 1.0, 50.0)
    assert "the photo gets lost, try --style-weight 11" in lost
    copied = verdict(0.1, 0.6, 1.0, 1.0)
    assert "the painting is hardly there, try --style-weight 2.7" in copied


def test_a_weight_of_zero_has_no_balance():
    assert "no balance" in verdict(0.7, 0.14, 0.0, 5.0)
