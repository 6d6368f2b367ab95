"""The commands that paint: demo, stylize, video, webcam, web, info, styles, doctor; each one's options are next to its code.

Everything heavier than the standard library is imported inside a command, so that --help is instant.
"""

import argparse
import itertools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from allaprima.inference.options import MachineOptions, StylizeOptions, VideoOptions
from allaprima.models.errors import AllaPrimaError, Interrupted, StyleError, VideoError, WebError
from allaprima.models.options import Commands, add_command, add_options, chosen, number, whole_number

if TYPE_CHECKING:
    from allaprima.inference.film.course import Course
    from allaprima.inference.style.session import StyleSession


def add_demo(commands: Commands) -> None:
    text = (
        "Paints a picture in every shipped style, with the style's colors and with the content's, onto one\n"
        "contact sheet. Without a PHOTO the picture is a landscape that the program makes up."
    )
    parser = add_command(commands, "demo", demo, "see every style on one sheet", text, "allaprima demo")
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="your own pictures instead of the landscape")
    parser.add_argument("-o", "--output", metavar="FILE", help="the sheet (default: allaprima_demo.png here)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file given with -o")
    add_options(parser, MachineOptions, ("max_pixels",))


def demo(options: argparse.Namespace) -> int:
    from allaprima.inference.demo import demo_sheet
    from allaprima.inference.landscape import paint_landscape
    from allaprima.inference.pictures import (
        Picture,
        check_no_input,
        check_writable,
        read_picture,
        resize_short_side,
        write_picture,
    )
    from allaprima.inference.style.styles import shipped_styles

    styles = shipped_styles()
    if not styles:
        raise StyleError("no shipped styles in checkpoints/; train one with: allaprima train PAINTING --photos FOLDER")
    output = Path(options.output or "allaprima_demo.png")
    check_no_input(output, options.photos)
    check_writable(output, options.overwrite or not options.output)  # before the work
    frames = [read_picture(photo, options.max_pixels).frame for photo in options.photos]
    frames = [resize_short_side(frame, 480) if min(frame.shape[:2]) > 480 else frame for frame in frames]
    sheet, times_ms = demo_sheet(frames or [paint_landscape(480, 640, seed=2)], styles)
    # The default name is the demo's own; a name that the user chose may be an existing picture's.
    write_picture(output, Picture(sheet), overwrite=options.overwrite or not options.output)
    wide = max(map(len, times_ms))
    for name, milliseconds in times_ms.items():
        print(f"{name:{wide}} {milliseconds:7.1f} ms a picture")
    print(f"look at {output.resolve()}")
    return 0


def add_stylize(commands: Commands) -> None:
    text = (
        "Takes files, folders and globs. The result has the photo's size, orientation, transparency and color\n"
        "profile. Without -o it is named after photo and style: photo.jpg becomes photo_great_wave.jpg, the folder\n"
        "trip becomes trip_great_wave. A photo that fails is reported and the others are painted; the exit code is 1."
    )
    example = "allaprima stylize photo.jpg --style great_wave --keep-color luminance"
    parser = add_command(commands, "stylize", stylize, "paint photos in a style", text, example)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="a file, a folder or a glob")
    what = "a shipped style, or an .onnx file; with --mask a second one for the black part"
    parser.add_argument("-s", "--style", required=True, action="append", metavar="NAME_OR_FILE", help=what)
    parser.add_argument("-o", "--output", metavar="FILE_OR_FOLDER", help="where to write")
    what = "a picture that says where to paint: what is white; gray in part; it is scaled to the photo"
    parser.add_argument("--mask", metavar="FILE", help=what)
    names = ("keep_color", "strength", "match_luminance", "strokes", "detail", "max_side_px")
    add_options(parser, StylizeOptions, names)
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--jobs",
        type=whole_number(1),
        default=0,
        metavar="N",
        help="photos in work at the same time (default: as many as there are cores)",
    )
    add_options(parser, MachineOptions)


def stylize(options: argparse.Namespace) -> int:
    from allaprima.inference.interrupt import catch_interrupt
    from allaprima.inference.pictures import check_no_input
    from allaprima.inference.style.session import StyleSession
    from allaprima.inference.style.styles import faster_tier, find_styles, style_name
    from allaprima.inference.stylize import Mask, plan_jobs, read_mask, run_jobs

    if len(options.style) > (2 if options.mask else 1):
        wanted = (
            "two at most, for its white and its black part" if options.mask else "one; --mask says where a second one paints"
        )
        raise StyleError(f"{len(options.style)} styles are given, {wanted}")
    paths, options.strength = find_styles(options.style, options.strength)

    def say(note: str) -> None:
        print(f"allaprima: {note}", file=sys.stderr)

    jobs = plan_jobs(options.photos, options.output, "_and_".join(map(style_name, options.style)), say)
    for job in jobs:
        check_no_input(job.destination, [options.mask] if options.mask else [])
    if options.match_luminance and options.keep_color != "luminance":
        say("--match-luminance changes nothing without --keep-color luminance")
    how = StylizeOptions(**chosen(StylizeOptions, options))
    at_once = min(len(jobs), options.jobs or os.cpu_count() or 1)
    opened = []
    for name, path in zip(options.style, paths, strict=True):
        session = StyleSession(path, options.device, shared=at_once > 1, engine=options.engine)
        fast = faster_tier(name) if options.strokes != 0 else None
        fine = StyleSession(fast, options.device, shared=at_once > 1, engine=options.engine) if fast else None
        opened.append((session, fine))
        detail = f", large photos' detail with {fast}" if fast else ""
        print(f"painting with {path} on {session.where}{detail}", file=sys.stderr)
    session, fine_session = opened[0]
    mask = Mask(read_mask(options.mask, options.max_pixels), *itertools.chain(*opened[1:])) if options.mask else None
    failed = 0
    with catch_interrupt() as received:
        results = run_jobs(
            jobs,
            session,
            how,
            fine_session=fine_session,
            mask=mask,
            overwrite=options.overwrite,
            max_pixels=options.max_pixels,
            at_once=at_once,
            stopped=lambda: received,
            progress=_share_done if len(jobs) == 1 and sys.stderr.isatty() else lambda _: None,
            say=lambda text: print(f"allaprima: {text}", file=sys.stderr),
        )
        if len(jobs) > 1 and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import track  # a single photo need not wait for it

            results = iter(track(results, "painting", total=len(jobs), console=Console(stderr=True)))
        for job, error in results:
            if error is None:
                print(job.destination)
            else:
                failed += 1
                print(f"allaprima: {error}", file=sys.stderr)
    if failed and len(jobs) > 1:
        print(f"allaprima: {failed} of {len(jobs)} pictures failed, the others are painted", file=sys.stderr)
    return 1 if failed else 0


def _share_done(share: float) -> None:
    """Prints the painted share of a picture, 0 to 1, over the previous one; 1 clears it."""
    print(f"\r{share:4.0%}" if share < 1.0 else "\r    \r", end="", file=sys.stderr, flush=True)


def add_video(commands: Commands) -> None:
    text = (
        "Sound and subtitles are passed on as they are, where OUT's format holds them; else sound is encoded anew. Size,\n"
        "timestamps, color range and aspect stay the film's, which is painted upright. The result appears under its name\n"
        "when it is whole; after Ctrl-C it holds what is done, and replaces nothing. Damaged parts are skipped and counted.\n"
        "A bare STYLE means the realtime tier; STYLE/quality, where there is one, takes many times longer."
    )
    example = "allaprima video clip.mp4 --style great_wave/realtime --keep-color luminance"
    parser = add_command(commands, "video", video, "paint a film", text, example)
    what = "a file of any kind that FFmpeg reads, numbered pictures (frames/%%05d.png, 25 a second), or - for standard input"
    parser.add_argument("films", nargs="+", metavar="IN", help=what)
    what = (
        "a shipped style, an .onnx file, a mix; or the palette's styles from times on: great_wave@0,starry_night@5,photo@1:10"
    )
    parser.add_argument("-s", "--style", required=True, metavar="NAME_OR_FILE", help=what)
    what = "how long it takes from one of such styles to the next (default: 1)"
    parser.add_argument("--fade", type=number(0.0, 3600.0), metavar="SECONDS", help=what)
    what = ".mp4, .m4v, .mov, .mkv, .webm, pictures (%%05d.png keeps transparency), a folder, or - (default: IN_STYLE.mp4)"
    parser.add_argument("-o", "--output", metavar="OUT", help=what)
    names = ("keep_color", "strength", "strokes", "detail", "steady", "max_side_px")
    add_options(parser, StylizeOptions, names)
    add_options(parser, VideoOptions)
    what = "in int8 where a trial at 640x480 finds fp32 slower than so many pictures a second, and int8 faster; films of later "
    what += "runs may then differ by a few levels of 255. 0 for the best picture (default: 0)"
    parser.add_argument("--target-fps", type=number(0.0, 1000.0), default=0.0, metavar="N", help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--profile", action="store_true", help="print how long each stage took")
    add_options(parser, MachineOptions, ("device", "engine"))


def video(options: argparse.Namespace) -> int:
    if "-" not in (*options.films, options.output):
        return _paint_films(options)
    import tempfile

    with tempfile.TemporaryDirectory(prefix="allaprima_") as folder:
        return _paint_standard_streams(options, Path(folder))


def _paint_standard_streams(options: argparse.Namespace, folder: Path) -> int:
    """Paint standard input, which is stored whole first, as films are read twice; or paint to standard output, as Matroska."""
    import contextlib
    import shutil

    if options.output is None:
        raise VideoError("standard input has no name; give -o")
    if options.output == "-" and len(options.films) > 1:
        raise VideoError(f"{len(options.films)} films do not go into one; give a folder with -o")
    if options.output == "-" and getattr(sys.stdout, "name", "") == os.devnull:  # set by the command line
        raise VideoError("standard output is closed; give a file with -o, or a pipe")
    if options.output == "-" and sys.stdout.isatty():
        raise VideoError("a film is nothing for a terminal; give a file with -o, or a pipe")
    if "-" in options.films:
        spooled = folder / "standard input"
        try:
            with spooled.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        except OSError as error:
            raise VideoError(
                f"standard input does not go into {folder}: {error.strerror}; TMPDIR names another place"
            ) from error
        options.films = [str(spooled) if film == "-" else film for film in options.films]
    output = folder / "standard output.mkv"

    def plain(text: str) -> str:
        return text.replace(str(output), "standard output").replace(str(folder / "standard input"), "standard input")

    try:
        if options.output != "-":
            return _paint_films(options, plain)
        options.output = str(output)
        with contextlib.redirect_stdout(sys.stderr):
            return _paint_films(options, plain)
    except AllaPrimaError as error:
        hint = ""
        if isinstance(error, VideoError) and str(output) in str(error):
            hint = f"; it is written to {folder.parent} first, and TMPDIR names another place"
        raise type(error)(plain(str(error)) + hint) from error
    finally:
        if output.exists():
            with output.open("rb") as painted:
                shutil.copyfileobj(painted, sys.stdout.buffer)
            sys.stdout.flush()


def _paint_films(options: argparse.Namespace, plain: Callable[[str], str] = str) -> int:
    """Paint films; `plain` rewrites a message before it is printed."""
    from allaprima.inference.film.video import check_output, plan_films
    from allaprima.inference.interrupt import catch_interrupt
    from allaprima.inference.precision import pick_precision
    from allaprima.inference.style.session import StyleSession
    from allaprima.inference.style.styles import PREFERRED_LIVE, find_styles, style_name

    for film in options.films:
        if "://" in film:
            raise VideoError(f"{film} is an address; video paints files, webcam --camera takes addresses")
    course = _course(options)
    if not course:
        (path,), options.strength = find_styles([options.style], options.strength, PREFERRED_LIVE)
    planned = plan_films(options.films, options.output, style_name(options.style))
    if options.output and options.output.endswith(("/", os.sep)):
        Path(options.output).mkdir(parents=True, exist_ok=True)
    if len(planned) == 1:
        check_output(planned[0][1], options.overwrite, options.codec)  # before the style is opened
    if course:
        session, found = course.session, ""
    else:
        picked, found = pick_precision({options.style: path}, options.device, options.target_fps, engine=options.engine)
        (path,) = picked.values()
        session = StyleSession(path, options.device, shared=True, engine=options.engine)
    print(f"painting with {session.name} on {session.where}{found and f' ({found})'}", file=sys.stderr)
    failed = 0
    with catch_interrupt() as received:
        for source, output in planned:
            try:
                _paint_film(source, output, session, options, received, plain, course)
            except VideoError as error:
                if len(planned) == 1:
                    raise
                failed += 1
                print(f"allaprima: {plain(str(error))}", file=sys.stderr)
    if failed:
        print(f"allaprima: {failed} of {len(planned)} films failed, the others are painted", file=sys.stderr)
    return 1 if failed else 0


def _course(options: argparse.Namespace) -> "Course | None":
    """The styles of a film whose --style names times."""
    from allaprima.inference.film.course import Course

    if "@" not in options.style or Path(options.style).exists():
        if options.fade is not None:
            raise StyleError("--fade is for styles from times on: --style great_wave@0,starry_night@5")
        return None
    return Course(options.style, 1.0 if options.fade is None else options.fade, options.device, options.engine)


def _paint_film(
    source: Path,
    output: Path,
    session: "StyleSession",
    options: argparse.Namespace,
    received: list[int],
    plain: Callable[[str], str],
    course: "Course | None",
) -> None:
    from allaprima.inference.console import film_progress
    from allaprima.inference.film.video import paint_video
    from allaprima.inference.profile import Profile, bare_session_ms

    how = StylizeOptions(**chosen(StylizeOptions, options))
    what = VideoOptions(**chosen(VideoOptions, options))
    profile = Profile()

    def say(note: str) -> None:
        print(plain(f"allaprima: {source}: {note}"), file=sys.stderr)

    with film_progress() as progress:
        report = paint_video(
            source,
            output,
            session,
            how=how,
            options=what,
            overwrite=options.overwrite,
            stopped=lambda: received,
            progress=progress,
            profile=profile,
            say=say,
            before_frame=course.at if course else lambda time_s: None,
        )
    if report.skipped:
        say(f"{report.skipped} damaged packets or frames were skipped; what follows keeps its time")
    speed = f"{report.frames / report.wall_s:.1f} frames a second"
    if options.profile:
        print(profile.table())
        alone_ms, frame_ms = bare_session_ms(session, *report.work_size), 1000.0 * report.wall_s / report.frames
        share = f"all around it {frame_ms - alone_ms:.1f} ms, {frame_ms / alone_ms - 1.0:.0%}"
        print(f"{frame_ms:.1f} ms a frame in all, the network alone, in {session.runs_in}, {alone_ms:.1f} ms: {share}")
    if not report.whole:
        raise Interrupted(f"stopped; {report.output} holds the first {report.end_s:.1f} s ({report.frames} frames)")
    print(plain(f"{report.output}: {report.frames} frames, {report.end_s:.1f} s, {report.encoder}, painted at {speed}"))


def add_webcam(commands: Commands) -> None:
    text = (
        "A window shows the camera painted; h in it lists the keys, q or Ctrl-C quits. --camera takes an index,\n"
        "an address (rtsp://, http://) or a film, which plays at its own speed over and over. A camera that hangs\n"
        "or is unplugged is opened again. A bare STYLE means the realtime tier; n and p change between several."
    )
    example = "allaprima webcam --style great_wave,starry_night --keep-color luminance"
    parser = add_command(commands, "webcam", webcam, "paint the camera live", text, example)
    what = "shipped styles or .onnx files (default: all that are shipped in the realtime tier)"
    parser.add_argument("-s", "--style", type=_names, metavar="STYLE[,STYLE...]", help=what)
    parser.add_argument("--camera", default="0", metavar="N|URL|FILE", help="(default: 0, the first one)")
    what = "styles of the palette, one network for all, which moves from one to the next in so many seconds (alone: 1)"
    parser.add_argument("--fade", nargs="?", type=number(0.0, 60.0), const=1.0, metavar="SECONDS", help=what)
    what = "what to ask a camera for (default: 640x480); a film or stream is made to fit in, whole (default: its own size)"
    parser.add_argument("--size", type=_size, metavar="WxH", help=what)
    names = ("keep_color", "strength", "strokes", "detail", "steady")
    add_options(parser, StylizeOptions, names, {"strokes": (0.0, "fine")})
    what = "hold so many pictures a second: in int8 where that is faster, smaller while a frame takes too long, and larger "
    what += "again; the picture keeps its size. 0 for the best picture (default: 25)"
    parser.add_argument("--target-fps", type=number(0.0, 1000.0), default=25.0, metavar="N", help=what)
    parser.add_argument("--record", metavar="OUT.mp4", help="record from the beginning")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.mp4 if it exists")
    what = "show the result as a camera to other programs; needs pip install pyvirtualcam"
    parser.add_argument("--virtual-camera", action="store_true", help=what)
    parser.add_argument("--headless", action="store_true", help="without a window")
    what = "stop after N painted frames (default: never)"
    parser.add_argument("--frames", type=whole_number(0), default=0, metavar="N", help=what)
    parser.add_argument("--profile", action="store_true", help="print at the end how long each stage took")
    add_options(parser, MachineOptions, ("device", "engine"))


def webcam(options: argparse.Namespace) -> int:
    from allaprima.inference.buffers import Buffers
    from allaprima.inference.film.sinks import check_film_writable
    from allaprima.inference.interrupt import catch_interrupt
    from allaprima.inference.live.cameras import CAMERA_SIZE, CameraFeed, open_camera
    from allaprima.inference.live.displays import VirtualCamera, Window, check_virtual_camera
    from allaprima.inference.live.rack import StyleRack
    from allaprima.inference.live.webcam import Controls, Webcam
    from allaprima.inference.precision import pick_precision
    from allaprima.inference.profile import Profile, bare_session_ms
    from allaprima.inference.style.fading import PaletteRack
    from allaprima.inference.style.styles import PREFERRED_LIVE, find_style, shipped_styles

    if options.record:
        check_film_writable(Path(options.record), options.overwrite)
        if Path(options.record).exists() and Path(options.camera).exists() and Path(options.record).samefile(options.camera):
            raise VideoError(f"{options.record} is the film that plays as the camera; record to another file")
    if options.virtual_camera:
        check_virtual_camera()
    window = None if options.headless else Window()
    size = (options.size[1], options.size[0]) if options.size else None
    rack: StyleRack | PaletteRack
    if options.fade is not None:
        rack, found = PaletteRack(options.style or (), options.fade, options.device, options.engine), ""
    else:
        names = options.style or [style.full_name for style in shipped_styles() if style.tier == PREFERRED_LIVE[0]]
        if not names:
            raise StyleError("no realtime styles in checkpoints/; give --style FILE.onnx")
        paths = {name: find_style(name, tiers=PREFERRED_LIVE) for name in names}
        paths, found = pick_precision(paths, options.device, options.target_fps, size or CAMERA_SIZE, options.engine)
        rack = StyleRack(paths, options.device, options.engine)
    buffers, profile = Buffers(), Profile()
    feed = CameraFeed(lambda: open_camera(options.camera, size, buffers), buffers, profile)
    print(f"painting with {rack.first.name} on {rack.first.where}{found and f' ({found})'}", file=sys.stderr)
    how = StylizeOptions(**chosen(StylizeOptions, options))

    def open_virtual_camera(height: int, width: int) -> VirtualCamera:
        return VirtualCamera(height, width, options.target_fps or 30.0)

    live = Webcam(
        feed,
        rack,
        buffers,
        Controls(keep_color=how.keep_color, strength=how.strength),
        how,
        target_fps=options.target_fps,
        display=window,
        record=Path(options.record) if options.record else None,
        virtual_camera=open_virtual_camera if options.virtual_camera else None,
        overwrite=options.overwrite,
        profile=profile,
        say=lambda text: print(text, file=sys.stderr),
    )
    try:
        with catch_interrupt() as received:
            report = live.run(options.frames, lambda: received)
    finally:
        feed.close()
        rack.close()
        if window:
            window.close()
    print(report)
    if options.profile:
        print(profile.table())
        height, width = live.work_size
        if height:
            alone_ms = bare_session_ms(rack.first, height, width)
            share = (
                f"; with this camera and all {report.fps:.1f}, {0.1 * report.fps * alone_ms:.0f} % of that"
                if report.fps
                else ""
            )
            alone = f"the network alone at {width}x{height}, in {rack.first.runs_in}"
            print(f"{alone}: {alone_ms:.1f} ms, {1000.0 / alone_ms:.1f} a second{share}")
    return 0


def add_info(commands: Commands) -> None:
    text = "Inputs and outputs, sizes, style, license, options and how it compared with torch; nothing in the file is run."
    example = "allaprima info great_wave/realtime.frame"
    parser = add_command(commands, "info", info, "say what an .onnx file is", text, example)
    parser.add_argument("styles", nargs="+", metavar="NAME_OR_FILE", help="an .onnx file of ours, or a shipped style")


def info(options: argparse.Namespace) -> int:
    from allaprima.inference.style.info import describe
    from allaprima.inference.style.styles import find_style

    for i, name in enumerate(options.styles):
        path = find_style(name)
        if len(options.styles) > 1:
            print(f"{'' if i == 0 else chr(10)}{path}")
        for heading, text in describe(path):
            print(f"{heading:9} {text}")
    return 0


def add_web(commands: Commands) -> None:
    text = (
        "A page that paints webcam, photos and videos in the browser: with WebGPU where the browser has it, else on the CPU.\n"
        "No picture leaves the machine. Without options it is served here, for this machine alone."
    )
    parser = add_command(commands, "web", web, "paint in a browser", text, "allaprima web")
    what = "where to serve; 0 takes any that is free (default: 8000)"
    parser.add_argument("--port", type=whole_number(0, 65535), default=8000, metavar="N", help=what)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--export", metavar="FOLDER", help="write the page for any static host instead")
    one.add_argument("--single-file", metavar="OUT.html", help="write one file that works from the disk instead")
    parser.add_argument(
        "--url", metavar="https://...", help="with --export: where it will be, for the picture that messengers show"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file given with --single-file")


def web(options: argparse.Namespace) -> int:
    from allaprima.inference.page.web import export_folder, make_server, write_single_file

    if options.overwrite and not options.single_file:
        raise WebError("--overwrite goes with --single-file; a folder must be new or empty")
    if options.url and not (options.export and re.match(r"https?://[^/]", options.url)):
        raise WebError(f"--url {options.url}: it is an address, https://..., and goes with --export")
    if options.export:
        size = export_folder(Path(options.export), url=options.url)
        print(f"wrote {options.export}, {size / 2**20:.0f} MB; put it on any https host, as it is")
        return 0
    if options.single_file:
        size = write_single_file(Path(options.single_file), options.overwrite)
        print(f"wrote {options.single_file}, {size / 2**20:.1f} MB; open it in a browser")
        return 0
    with make_server(options.port) as server:
        print(f"open http://127.0.0.1:{server.server_port}/ in a browser on this machine; Ctrl-C ends", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def add_styles(commands: Commands) -> None:
    text = (
        "Title, painter, year and license of the painting, size of the file, how the network was trained, and its losses\n"
        "on held-out photos. Each name works as --style; a bare name means the best tier."
    )
    add_command(commands, "styles", styles, "list the shipped styles", text, "allaprima styles")


def styles(options: argparse.Namespace) -> int:
    from allaprima.inference.style.styles import shipped_styles

    for style in shipped_styles():
        card = style.card
        who = ", ".join(str(card[key]) for key in ("painter", "year", "license") if card.get(key))
        print(f'{style.full_name:24} "{card.get("title", style.name)}", {who}; {style.path.stat().st_size / 2**20:.1f} MB')
        if style.flavors:
            print(f"{'':24} also as {', '.join(f'{style.full_name}.{flavor}' for flavor in style.flavors)}")
        if "photos_seen" in card:
            minutes = card["seconds"] / 60
            print(f"{'':24} trained on {card['photos_seen']:,} photos in {minutes:.0f} minutes, {card['device']}")
        if "started_from" in card:
            own = card["started_from"] == style.full_name
            print(f"{'':24} started from {'an earlier training of its own' if own else card['started_from']}")
        for size, parts in card.get("heldout", {}).items():
            print(f"{'':24} held-out photos at {size} px: content {parts['content']:.3f}, style {parts['style']:.3f}")
        for size, judged in card.get("judged", {}).items():
            text = f"style {judged['swd']:.3f} off, content {judged['ss']:.3f} off, grid {judged['grid']:.1%}"
            print(f"{'':24} judged at {size} px: {text}, palette {judged['palette']:.2f} of the painting's")
        if "border_band" in card:
            print(f"{'':24} band at the worst border: {card['border_band']} levels of 255")
        for size, figures in card.get("classic", {}).items():
            worth = [f"{figures[start]} iterations from {start}" for start in ("noise", "content") if start in figures]
            print(f"{'':24} worth {', '.join(worth)} of the classic optimization at {size} px")
    return 0


def add_doctor(commands: Commands) -> None:
    text = "Opens providers and encoders rather than trusting what is installed, and looks for the display and for VGG-19."
    add_command(commands, "doctor", doctor, "say what this machine can run", text, "allaprima doctor")


def doctor(options: argparse.Namespace) -> int:
    from allaprima.inference.doctor import examine

    for name, well, text in examine():
        print(f"{'ok' if well else '--'}  {name:12} {text}")
    return 0


def _size(text: str) -> tuple[int, int]:
    """Width and height."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and all(16 <= int(side) <= 16384 for side in (width, height))):
        raise argparse.ArgumentTypeError(f"{text} is not WIDTHxHEIGHT with sides from 16 to 16384")
    return int(width), int(height)


def _names(text: str) -> list[str]:
    """Styles, separated by commas; neighbors with weights are one mix."""
    from allaprima.inference.style.palette import parse_mix

    names: list[str] = []
    for name in filter(None, map(str.strip, text.split(","))):
        if names and parse_mix(name) and parse_mix(names[-1]):
            names[-1] += f",{name}"
        else:
            names.append(name)
    if not names:
        raise argparse.ArgumentTypeError("no style is named; allaprima styles lists them")
    return names
