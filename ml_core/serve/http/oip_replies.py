"""What callers of the Open Inference Protocol get: the envelopes of a batch as tensors, in JSON or as bytes.

Parameters say what all rows share. What differs from row to row, as lineage does where some rows are a fallback's,
comes as an output of the same name, so that nothing is said of a row that is not so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ml_core.base.arrays import Label
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.http.oip_requests import InferenceRequest
from ml_core.serve.http.oip_tensors import DATATYPES, DataType, Tensor, write_bytes
from ml_core.serve.http.replies import JSON, Header, Reply, model_headers

__all__ = ["OCTETS", "ROW_FACTS", "TensorDescription", "inference_reply", "labels_text", "output_tensors"]

OCTETS = b"application/octet-stream"
_HEAD_LENGTH = b"inference-header-content-length"

_ROW_FACTS: Mapping[str, Callable[[InferenceResponse], str | None]] = {
    "confidence_level": lambda answer: str(answer.confidence_level),
    "guarantee": lambda answer: answer.guarantee,
    "group": lambda answer: answer.group,
    "validity_reasons": lambda answer: ",".join(answer.validity_reasons),
    "model_version": lambda answer: answer.lineage.model_version,
    "model_hash": lambda answer: answer.lineage.model_hash,
    "feature_version": lambda answer: answer.lineage.feature_version,
    "calibration_id": lambda answer: answer.lineage.calibration_id,
    "slot": lambda answer: answer.lineage.slot,
}
ROW_FACTS = tuple(_ROW_FACTS)
"""Texts that are parameters where all rows share them, else outputs."""


@dataclass(frozen=True, slots=True)
class TensorDescription:
    """An output as the model's metadata tells it; -1 stands for the rows."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]


def output_tensors(classes: Sequence[Label]) -> list[TensorDescription]:
    """The outputs of a model with these labels, in their order, without those that are there only where rows differ."""
    label = DATATYPES["INT64" if isinstance(classes[0], int) else "BYTES"]
    number, text, k = DATATYPES["FP64"], DATATYPES["BYTES"], len(classes)
    return [
        TensorDescription("prediction", label, (-1,)),
        *([TensorDescription("probability", number, (-1,))] if k == 2 else []),
        TensorDescription("p_values", number, (-1, k)),
        TensorDescription("prediction_set", DATATYPES["BOOL"], (-1, k)),
        *(TensorDescription(name, text, (-1,)) for name in _TEXTS),
    ]


_TEXTS: Mapping[str, Callable[[InferenceResponse], str | None]] = {
    "request_id": lambda answer: answer.request_id,
    "validity": lambda answer: answer.validity,
    "fallback_reason": lambda answer: answer.fallback_reason,
    "input_hash": lambda answer: answer.lineage.input_hash,
}


def labels_text(classes: Iterable[Label]) -> str:
    """The labels as a text, since a parameter is no list: JSON, in the order of the columns of ``p_values``."""
    return orjson.dumps(list(classes)).decode()


def inference_reply(request: InferenceRequest, answers: Sequence[InferenceResponse], batch_id: str) -> Reply:
    """The reply to a request, whose rows were all answered.

    Parameters
    ----------
    answers : one for each row
    batch_id : the reply's name where the caller gave none
    """
    classes = _labels(answers[0])
    facts = {name: [fact(answer) for answer in answers] for name, fact in _ROW_FACTS.items()}
    differing = [name for name, values in facts.items() if len(set(values)) > 1]
    usual = [one.name for one in output_tensors(classes)]
    wanted = dict.fromkeys([*usual, *differing]) if request.outputs is None else request.outputs
    shared = {name: values[0] for name, values in facts.items() if name not in differing and name not in wanted}
    outputs, pieces = [], []
    for name, own in wanted.items():
        told, raw = _written(_tensor(name, answers, classes), binary=request.binary if own is None else own)
        outputs.append(told)
        pieces.append(raw)
    first = answers[0].lineage
    head = orjson.dumps(
        {
            "model_name": first.model_name,
            "model_version": first.model_version,
            "id": request.id or batch_id,
            "parameters": {**_parameters(shared, answers), "labels": labels_text(classes)},
            "outputs": outputs,
        }
    )
    headers: tuple[Header, ...] = (
        (b"x-request-id", batch_id.encode()),
        *model_headers(first.model_version, first.model_hash),
    )
    if not any("data" not in one for one in outputs):
        return Reply(200, head, JSON, headers)
    return Reply(200, b"".join((head, *pieces)), OCTETS, (*headers, (_HEAD_LENGTH, b"%d" % len(head))))


def _labels(answer: InferenceResponse) -> list[Label]:
    """The model's labels, as the answer names them: ``p_values`` has their texts."""
    is_number = isinstance(answer.prediction, int)
    return [int(name) if is_number else name for name in answer.p_values]


def _parameters(shared: Mapping[str, str | None], answers: Sequence[InferenceResponse]) -> dict[str, Any]:
    """What is said once for all rows; ``timestamp`` is that of the last one. What there is not, is left out."""
    last = answers[-1].lineage
    told = {
        **shared,
        "fallback_used": any(answer.fallback_used for answer in answers),
        "bento": last.bento,
        **{f"served_by.{name}": value for name, value in last.served_by.items()},
        "timestamp": last.timestamp,
    }
    return {name: value for name, value in told.items() if value is not None}


def _tensor(name: str, answers: Sequence[InferenceResponse], classes: Sequence[Label]) -> Tensor:
    described = {one.name: one for one in output_tensors(classes)}
    n, labels = len(answers), {"labels": labels_text(classes)}
    if name in ("p_values", "prediction_set"):
        values = _p_values(answers, classes) if name == "p_values" else _memberships(answers, classes)
        return Tensor(name, described[name].datatype, (n, len(classes)), values, labels)
    if name in ("prediction", "probability"):
        return Tensor(name, described[name].datatype, (n,), [getattr(answer, name) for answer in answers])
    fact = _TEXTS.get(name) or _ROW_FACTS[name]
    return Tensor(name, DATATYPES["BYTES"], (n,), [fact(answer) or "" for answer in answers])


def _p_values(answers: Sequence[InferenceResponse], classes: Sequence[Label]) -> list[float]:
    names = [str(label) for label in classes]
    return [answer.p_values[name] for answer in answers for name in names]


def _memberships(answers: Sequence[InferenceResponse], classes: Sequence[Label]) -> list[bool]:
    return [label in answer.prediction_set for answer in answers for label in classes]


def _written(tensor: Tensor, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """What the JSON says of a tensor, and the bytes that follow it."""
    raw = write_bytes(tensor) if binary else b""
    parameters = {**tensor.parameters, **({"binary_data_size": len(raw)} if binary else {})}
    told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype.name, "shape": list(tensor.shape)}
    if parameters:
        told["parameters"] = parameters
    if not binary:
        told["data"] = list(tensor.values)
    return told, raw
