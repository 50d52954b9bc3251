"""``al-ray doctor``: what this machine can run, and what is missing."""

import importlib.util
import os
import socket
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Literal
from urllib.parse import urlparse

import psutil
import typer
from rich.table import Table
from rich.text import Text

from al_ray.data.files import data_folder, named_folders
from al_ray.errors import AlRayError, DataError, StorageError, without_secrets
from al_ray.model.source import resolve_model
from al_ray.storage.folder import Folder
from al_ray.study.forecast import has_fast_bf16
from al_ray.terminal import make_console
from al_ray.tracking.mlflow_address import tracking_address

Health = Literal["ok", "note", "missing"]
PROBE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    verdict: Health
    detail: str


def doctor(
    storage: Annotated[str, typer.Option("--storage", help="Folder of the records, to see its free space.")] = ".",
) -> None:
    """Say what this machine can run (Ray, GPU, bf16, Hub, data folders, MLflow) and what is missing."""
    # Nothing is started and nothing is downloaded.
    console = make_console()
    table = Table(title="what this machine can run", title_justify="left")
    for name in ("part", "", "detail"):
        table.add_column(name, overflow="fold")
    checks = (_packages, _cores, _memory, _ray, _gpu, _bf16, _hub, _data, _minilm)
    findings = [*(check() for check in checks), _mlflow(storage), _disk(storage)]
    style = {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings:
        table.add_row(finding.what, Text(finding.verdict, style=style[finding.verdict]), finding.detail)
    console.print(table)
    if any(finding.verdict == "missing" for finding in findings):
        raise typer.Exit(1)


def _packages() -> Finding:
    needed = ("ray", "torch", "transformers", "datasets", "pyarrow", "mlflow")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        return Finding("packages", "missing", f"{', '.join(absent)}. Run 'make install'.")
    return Finding("packages", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in needed))


def _cores() -> Finding:
    n = os.cpu_count() or 1
    return Finding("cores", "ok", f"{n}, so up to {n} one-worker lanes")


def _memory() -> Finding:
    gib = psutil.virtual_memory().total / 2**30
    verdict: Health = "ok" if gib >= 6 else "note"
    return Finding("memory", verdict, f"{gib:.0f} GiB; Ray and two lanes with a small model take about 3 GiB")


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if importlib.util.find_spec("ray") is None:
        return Finding("Ray", "missing", "not installed. Run 'make install'.")
    joined = f"joins {without_secrets(address)} (RAY_ADDRESS)" if address else "starts a local one for each study"
    return Finding("Ray", "ok", joined)


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "note", "none seen by torch; cells run on cores")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPU", "ok", f"{', '.join(names)}. Use it with --set gpus_per_worker=1 (or a fraction).")


def _bf16() -> Finding:
    fast = has_fast_bf16()
    if fast:
        return Finding("bf16", "ok", "this processor has bf16 instructions: 'precision: bf16' is 2 to 3 times faster")
    if fast is None:
        return Finding("bf16", "note", "this system does not tell; measure before you set 'precision: bf16'")
    return Finding("bf16", "note", "no bf16 instructions: set 'precision: {cpu: float32, cuda: bf16}' in studies")


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True"):
        return Finding("Hugging Face Hub", "note", "switched off by HF_HUB_OFFLINE; cached models and data still work")
    endpoint = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
        socket.create_connection((endpoint.hostname or "", port), timeout=PROBE_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        detail = f"cannot be reached ({error}). Use local folders: AL_RAY_DATA for data, a path for models."
        return Finding("Hugging Face Hub", "note", detail)
    return Finding("Hugging Face Hub", "ok", f"{endpoint.hostname} answers")


def _data() -> Finding:
    try:
        folder, names = data_folder(), named_folders()
    except DataError as error:
        return Finding("data folder", "missing", str(error))
    if folder is None:
        return Finding(
            "data folder", "note", "AL_RAY_DATA is not set: named data sets come from the Hub; 'tickets' is built in"
        )
    return Finding("data folder", "ok", f"{folder}: {', '.join(names) or 'no data set in it (NAME/train.parquet)'}")


def _minilm() -> Finding:
    try:
        model = resolve_model("minilm", None)
    except AlRayError as error:
        return Finding("model minilm", "missing", str(error))
    return Finding("model minilm", "ok", f"{model.path}, SHA-256 checked")


def _mlflow(storage: str) -> Finding:
    try:
        address = tracking_address(None, storage)
    except AlRayError as error:
        return Finding("MLflow", "missing", str(error))
    if address is None:
        return Finding("MLflow", "note", "off unless a study names one; set MLFLOW_TRACKING_URI to a server")
    source = "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI", "").strip() else "in the storage folder"
    return Finding("MLflow", "ok", f"{without_secrets(address)} ({source})")


def _disk(storage: str) -> Finding:
    try:
        free_bytes = Folder.open(storage).free_bytes()
    except StorageError as error:
        return Finding("disk", "missing", str(error))
    if free_bytes is None:
        return Finding("disk", "ok", "an object store, which answers and has no end")
    free = free_bytes / 2**30
    return Finding("disk", "ok" if free > 2 else "note", f"{free:.0f} GiB free where the records go")
