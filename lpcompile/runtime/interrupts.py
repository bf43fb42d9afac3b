"""Ctrl-C while the runtime computes: Python hears of a signal only when a call returns, which may take minutes."""

import contextlib
import os
import signal
import threading

import onnxruntime

from lpcompile import process

_options: onnxruntime.RunOptions | None = None


def run_options() -> onnxruntime.RunOptions | None:
    """What every call of the runtime on our own command line is given: Ctrl-C ends it after the operator at work.

    None in processes of others, whose signals are not ours to watch.
    """
    global _options
    if _options is None and process.is_ours():
        _options = onnxruntime.RunOptions()
        _options.log_severity_level = 4
        with contextlib.suppress(ValueError, OSError):  # not the main thread: then no signal arrives here
            _watch(_options)
    return _options


def _watch(options: onnxruntime.RunOptions) -> None:
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def listen() -> None:
        while number := os.read(heard, 1):
            if number[0] == signal.SIGINT:
                options.terminate = True

    threading.Thread(target=listen, daemon=True, name="interrupts").start()
