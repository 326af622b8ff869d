"""How long `archloom --help` takes, best and median of twenty, and whether it imports torch.

python tests/benchmarks/bench_command_line.py
"""

import statistics
import subprocess
import sys
import time

HELP = [sys.executable, "-m", "archloom", "--help"]
PROBE = "import sys; from archloom.main import app; print('torch' in sys.modules)"


def seconds() -> float:
    started = time.perf_counter()
    subprocess.run(HELP, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    seconds()
    taken = [seconds() for _ in range(20)]
    torch = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True).stdout.strip()
    print(f"archloom --help: best {min(taken):.3f} s, median {statistics.median(taken):.3f} s; torch imported: {torch}")
