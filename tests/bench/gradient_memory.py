"""Growth of the resident set during the first runs of a model, in a process of its own.

`python -m tests.bench.gradient_memory MODEL LEAN CHUNK`: LEAN 0 leaves the runtime its plan of buffers that are kept
for reuse; CHUNK is the first piece of a shared arena in bytes, 0 for the session's own arena. Prints bytes.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort


def main(model: str, lean: bool, chunk: int) -> int:
    """Bytes above what was resident when the model was loaded."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = options.enable_mem_reuse = not lean
    if chunk:
        info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        settings = {
            "max_mem": 0,
            "arena_extend_strategy": 0,
            "initial_chunk_size_bytes": chunk,
            "max_dead_bytes_per_chunk": -1,
        }
        ort.create_and_register_allocator(info, ort.OrtArenaCfg(settings))
        options.add_session_config_entry("session.use_env_allocators", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds = {i.name: rng.normal(size=i.shape).astype(np.float32) for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()][1:]
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(2):
        session.run(names, feeds)
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {key} on this system")


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2] == "1", int(sys.argv[3])))
