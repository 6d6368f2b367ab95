"""The styles that keys switch between: each is opened in the background while another one paints."""

import threading
from pathlib import Path

import numpy as np

from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import AllaPrimaError


class StyleRack:
    """Styles that are opened in the background, so that switching to one does not hold up the picture.

    Args:
        paths: .onnx files by name. device, engine: see `StyleSession`.
    Attributes:
        names: of the styles. first: the session of the first one. errors: why styles could not be opened, by name.
    Raises:
        StyleError: the first one cannot be opened.
    """

    def __init__(self, paths: dict[str, Path], device: str = "auto", engine: str = "auto") -> None:
        self.names = list(paths)
        self.errors: dict[str, str] = {}
        self._paths, self._device, self._engine = paths, device, engine
        self.first = StyleSession(paths[self.names[0]], device, shared=True, engine=engine)
        self._sessions = {self.names[0]: self.first}
        self._size = (0, 0)
        self._opener: threading.Thread | None = None
        self._opening: StyleSession | None = None
        self._closing = False

    def session(self, name: str) -> StyleSession | None:
        """A style's session; None while it is being opened, or if it cannot be."""
        return self._sessions.get(name)

    def open_all(self, height: int, width: int) -> None:
        """Open the others, one after another, and let each paint an empty frame of this size."""
        self._size = (height, width)
        self._opener = threading.Thread(target=self._open_all, name="styles", daemon=True)
        self._opener.start()

    def _open_all(self) -> None:
        for name in self.names:
            if self._closing:
                return
            try:
                if name in self._sessions:
                    continue
                session = self._opening = StyleSession(self._paths[name], self._device, shared=True, engine=self._engine)
                session.stylize(np.zeros((*self._size, 3), np.uint8))  # the first run at a size takes longer
            except AllaPrimaError as error:
                self.errors[name] = str(error)
            else:
                self._sessions[name] = session

    def close(self) -> None:
        """Stops the opening, even in the middle of an empty frame."""
        self._closing = True
        if self._opening:
            self._opening.run_options.terminate = True
        if self._opener:
            self._opener.join(5.0)
