"""Remote output, printed here."""

from __future__ import annotations

import codecs
import sys

from runkit.wire.frames import Frame

_decoder = codecs.getincrementaldecoder("utf-8")


class Printer:
    """Writes what one call prints to the same streams here, without a prefix, as it comes."""

    def __init__(self) -> None:
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}

    def show(self, frame: Frame) -> None:
        """Print a LOG frame. A character that is cut in two by the way it came waits for its other half."""
        stream = frame.meta["s"]
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = _decoder("replace")
        text = decoder.decode(bytes(frame.parts[0]))
        out = sys.stdout if stream == 1 else sys.stderr
        try:
            try:
                out.write(text)
            except UnicodeEncodeError:  # this terminal has not got all of Unicode
                encoding = getattr(out, "encoding", None) or "ascii"
                out.write(text.encode(encoding, "backslashreplace").decode(encoding))
            out.flush()
        except (AttributeError, ValueError, OSError):  # the stream was closed or is None: output has nowhere to go
            pass
