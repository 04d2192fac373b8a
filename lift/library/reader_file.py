"""A reader as one small file: a LongLoRA adapter with only what training moved, restored exactly in bf16.

    pack(Path("out/reader"), Path("smollm2.reader"), "smollm2-8k")
    unpack(Path("smollm2.reader"), folder)                   # PEFT's files again, but for the rows that did not move
    restore(folder, base_folder)                             # and these, from the base model

The file is a zip of safetensors, JSON and the tokenizer's text files, without folders. LoRA matrices are in bf16 at their
rank, norms as they are. Of embedding and head, which are large and change by little, it has the rows that moved: as the
difference between the bits of new and old bf16 numbers, read as integers in the order of the numbers. These are small
integers, so they compress to half, and adding them restores every bit. (LZMA: a tenth smaller than deflate on such numbers.)
"""

import lzma
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lift.library import base_model
from lift.library.readers import RECORD, Reader, check_name, read_record
from longthread.errors import ConfigError, DataError
from longthread.files import replacing, write_text

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 60_000_000  # of a reader's file
MOST_UNPACKED = 4 * 2**30  # bytes: far more than any reader has, far less than a zip bomb
MEMBER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(json|safetensors|jinja|txt)"  # no path, so nothing leads out of the folder
ADAPTER, CONFIG, WEIGHTS = "adapter_config.json", "config.json", "adapter_model.safetensors"
ROWS, DELTA, HEIGHT = "#rows", "#delta", "#height"  # behind the name of a tensor of which moved rows are stored
PEFT_PREFIX = "base_model.model."


def pack(adapter: Path, out: Path, name: str, base: str | None = None) -> int:
    """Write the reader that an adapter's folder holds to the file `out`; return the file's size in bytes.

    `base`: folder or name of the base model, when not the one the adapter names. Raises `ConfigError`, with nothing written.
    """
    from safetensors.torch import load_file, save_file

    from trainer_configs.longlora.adapter import TEMPLATES, TOKENIZER, base_of, configs

    stated = base or base_of(adapter)
    if not stated:
        raise ConfigError(f"{adapter} does not name its base model: give it", setting="base")
    base_name, base_folder = base_model.located(stated)
    _, trained = configs(adapter, str(base_folder))
    if trained is None:
        raise ConfigError(f"{adapter} has no {CONFIG} of its training run, which says how RoPE was set: copy it there")
    stored, moved, same = _packed(load_file(adapter / WEIGHTS), base_folder)
    fingerprint = base_model.fingerprint(base_folder)
    reader = Reader(name=check_name(name), base_model=base_name, fingerprint=fingerprint, moved=moved, same=same)
    tokenizer = {path for pattern in (*TOKENIZER, *TEMPLATES) for path in adapter.glob(pattern)}
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary)
        save_file(stored, draft / WEIGHTS)
        trained.to_json_file(draft / CONFIG)
        write_text(draft / RECORD, reader.model_dump_json(indent=1) + "\n")
        for path in (adapter / ADAPTER, *sorted(tokenizer)):
            if path.is_file() and re.fullmatch(MEMBER, path.name):
                shutil.copyfile(path, draft / path.name)
        with replacing(out) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
                for path in sorted(draft.iterdir()):
                    archive.write(path, path.name)
            if (size := file.tell()) > MOST_BYTES:
                raise ConfigError(
                    f"{out} would have {size / 1e6:.1f} MB, a reader has at most {MOST_BYTES / 1e6:.0f} MB: train LoRA of a "
                    "lower rank, or leave the embedding as it is"
                )
    return size


def unpack(source: Path, folder: Path) -> Reader:
    """Write the files of a reader, in a file or a folder, into an empty folder, and return its record. Raises `DataError`."""
    with _members(source) as members:
        for name, archive in members.items():
            if archive is None:
                shutil.copyfile(source / name, folder / name)
                continue
            with archive.open(name) as packed, (folder / name).open("wb") as file:
                shutil.copyfileobj(packed, file)
    return read_record(folder)


@contextmanager
def _members(source: Path) -> "Iterator[Mapping[str, zipfile.ZipFile | None]]":
    """Give the names of a reader's files, each with the archive that holds it. Refuses what no reader holds."""
    if source.is_dir():
        yield dict.fromkeys(_checked(source, [path.name for path in source.iterdir()]))
        return
    try:
        with zipfile.ZipFile(source) as archive:
            infos = archive.infolist()
            names = _checked(source, [info.filename for info in infos])
            if sum(info.file_size for info in infos) > MOST_UNPACKED:
                raise DataError(f"{source} unpacks to more than {MOST_UNPACKED / 2**30:.0f} GiB: it is no reader")
            yield dict.fromkeys(names, archive)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{source} cannot be read as a reader ({error}): pack it again") from None


def _checked(source: Path, names: list[str]) -> list[str]:
    for name in names:
        if not re.fullmatch(MEMBER, name):
            raise DataError(
                f"{source} holds {name!r}: a reader has safetensors, JSON and a tokenizer's text files alone"
            )
    for name in (RECORD, ADAPTER, CONFIG, WEIGHTS):
        if names.count(name) != 1:
            raise DataError(f"{source} has {names.count(name)} files {name}, a reader has one: pack it again")
    return names


def restore(folder: Path, base_folder: Path) -> None:
    """Make an unpacked reader the adapter that was trained: the rows that did not move come from the base model."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    reader, base = read_record(folder), dict(base_model.stored_tensors(base_folder))
    try:
        stored = load_file(folder / WEIGHTS)
        for name, origin in reader.moved.items():
            rows, delta = stored.pop(name + ROWS), stored.pop(name + DELTA)
            tensor = _grown(base[origin], int(stored.pop(name + HEIGHT))).clone()
            tensor[rows] = _from_order(_order(tensor[rows]) + delta.to(torch.int32)).to(tensor.dtype)
            stored[name] = tensor
        stored |= {name: stored[twin].clone() for name, twin in reader.same.items()}
    except (KeyError, IndexError, RuntimeError, ValueError, SafetensorError) as error:
        raise DataError(f"{folder} is no whole reader ({error}): pack it again") from None
    save_file(stored, folder / WEIGHTS)


class Packed(NamedTuple):
    """The tensors of a reader's file, and its record's `moved` and `same`."""

    stored: "dict[str, Tensor]"
    moved: dict[str, str]
    same: dict[str, str]


def _packed(trained: "dict[str, Tensor]", base_folder: Path) -> Packed:
    """Return what is stored of an adapter's tensors."""
    import torch

    base = {name: tensor for name, tensor in base_model.stored_tensors(base_folder) if tensor.ndim == 2}
    stored, moved, same = packed = Packed({}, {}, {})
    for name, tensor in trained.items():
        origin = _origin(name, tensor, base)
        if origin is None:
            lora = "lora_" in name
            stored[name] = tensor.to(torch.bfloat16).contiguous() if lora else tensor.contiguous()
            continue
        if twin := next((other for other in moved if torch.equal(trained[other], tensor)), None):
            same[name] = twin
            continue
        old, new = _order(_grown(base[origin], len(tensor))), _order(tensor)
        rows = (old != new).any(1).nonzero()[:, 0]
        moved[name] = origin
        stored[name + ROWS] = rows.to(torch.int32)
        stored[name + DELTA] = (new[rows] - old[rows]).to(torch.int16)  # modulo 2^16, and so is the sum
        stored[name + HEIGHT] = torch.tensor(len(tensor))
    return packed


def _origin(name: str, tensor: "Tensor", base: "Mapping[str, Tensor]") -> str | None:
    """Return the base's tensor of which this one is a trained copy; of a head that was tied, that is the embedding."""
    if tensor.ndim != 2 or "lora_" in name:
        return None
    own = name.removeprefix(PEFT_PREFIX)
    embedding = next((other for other in base if other.endswith("embed_tokens.weight")), None)
    origin = own if own in base else embedding if own.endswith("lm_head.weight") else None
    return origin if origin and base[origin].shape[1] == tensor.shape[1] and len(base[origin]) <= len(tensor) else None


def _grown(tensor: "Tensor", height: int) -> "Tensor":
    """Return the base's matrix with rows of zeros for what training added to the vocabulary."""
    from torch.nn.functional import pad

    return pad(tensor, (0, 0, 0, height - len(tensor)))


def _order(tensor: "Tensor") -> "Tensor":
    """Return each number, rounded to bf16, as an integer: neighbouring numbers are neighbouring integers (int32)."""
    import torch

    bits = tensor.to(torch.bfloat16).contiguous().view(torch.int16).int()
    return torch.where(bits < 0, -(2**15) - 1 - bits, bits)


def _from_order(integers: "Tensor") -> "Tensor":
    """Return the bf16 numbers of integers of `_order`, taken modulo 2^16."""
    import torch

    wrapped = integers.to(torch.int16).int()
    return torch.where(wrapped < 0, -(2**15) - 1 - wrapped, wrapped).to(torch.int16).view(torch.bfloat16)
