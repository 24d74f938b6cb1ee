"""`rethink gpu-check` from a checkout, with no more installed than torch, transformers and numpy (and pydantic for
the stage `step`): the check must run on a machine that reaches no package index.

    python benchmarks/gpu_check.py
    python benchmarks/gpu_check.py --only parity
    python benchmarks/gpu_check.py --device cpu --small     # without a GPU
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rethink.check.gpu.job import Job
from rethink.check.gpu.run import check_gpu, failures
from rethink.check.gpu.stages import STAGES

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", action="append", metavar="STAGE")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    a = parser.parse_args()
    job, names = Job(a.device, a.small), a.only or tuple(STAGES)
    results = check_gpu(job, a.out, names, note=lambda text: print(text, flush=True))
    print(json.dumps(results, indent=1))
    sys.exit(any(failures(found) for found in results["stages"].values()))
