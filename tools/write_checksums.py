"""Write the sums of the shipped weight files: run after exporting a release, commit the result with the files."""

import hashlib
import json
from pathlib import Path

folder = Path(__file__).parent.parent / "src" / "octamark" / "models" / "blobs"
sums = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.onnx"))}
(folder / "sha256.json").write_text(json.dumps(sums, indent=1) + "\n")
total = sum(path.stat().st_size for path in folder.glob("*.onnx"))
print(f"{', '.join(sums)}: {total / 1e6:.2f} MB together")
