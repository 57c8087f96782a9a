"""A small network whose forward pass is told in full: answers for the page's view of it, computed so that sums are true."""

import base64
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor

SIDE = 48
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSES = 7


def convolution(name: str, reads: int, out: int, size: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "convolution", "reads": [reads], "out": out, "size": size, **more}


def relu6(name: str, reads: int) -> dict[str, Any]:
    return {"name": name, "kind": "activation", "reads": [reads]}


PROGRAM: list[dict[str, Any]] = [
    {"name": "picture", "kind": "input", "reads": []},
    convolution("stem.convolution", 0, 16, 3, stride=2, folded="stem.norm"),
    relu6("stem.relu", 1),
    convolution("block.expand", 2, 32, folded="block.norm0"),
    relu6("block.relu0", 3),
    convolution("block.depthwise", 4, 32, 3, groups=32, folded="block.norm1"),
    relu6("block.relu1", 5),
    convolution("block.project", 6, 16, folded="block.norm2"),
    {"name": "block.add", "kind": "add", "reads": [7, 2]},
    convolution("branches.narrow", 8, 12),
    convolution("branches.wide", 8, 12, 3),
    relu6("branches.relu0", 9),
    relu6("branches.relu1", 10),
    {"name": "branches.concatenate", "kind": "concatenate", "reads": [11, 12]},
    {"name": "pool", "kind": "max_pool", "reads": [13]},
    convolution("head.convolution", 14, 40, folded="head.norm"),
    relu6("head.relu", 15),
    {"name": "mean", "kind": "average_pool", "reads": [16]},
    {"name": "flatten", "kind": "move", "reads": [17]},
    {"name": "classifier", "kind": "linear", "reads": [18], "out": CLASSES},
]
LAYERS = {0: "picture", 2: "stem", 8: "block", 13: "branches", 14: "pool", 16: "head"}


class Made:
    """The network's answers for one picture."""

    def __init__(self, picture: bytes) -> None:
        image = Image.open(BytesIO(picture)).convert("RGB").resize((SIDE, SIDE))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        self.outputs: list[Tensor] = [(pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]]
        self.weights: dict[int, tuple[Tensor, Tensor]] = {}
        generator = torch.Generator().manual_seed(7)
        for index, op in enumerate(PROGRAM[1:], 1):
            inputs = [self.outputs[read] for read in op["reads"]]
            self.outputs.append(self._run(index, op, inputs, generator))

    def _run(self, index: int, op: dict[str, Any], inputs: list[Tensor], generator: torch.Generator) -> Tensor:
        first, kind = inputs[0], op["kind"]
        if kind == "convolution":
            groups, size = op.get("groups", 1), op["size"]
            shape = (op["out"], first.shape[0] // groups, size, size)
            weight = torch.randn(shape, generator=generator) * (2 / (shape[1] * size * size)) ** 0.5
            bias = 0.3 * torch.randn(op["out"], generator=generator)
            self.weights[index] = weight, bias
            return functional.conv2d(first[None], weight, bias, op.get("stride", 1), size // 2, 1, groups)[0]
        if kind == "linear":
            weight, bias = torch.randn(op["out"], len(first), generator=generator), torch.randn(op["out"], generator=generator)
            self.weights[index] = weight, bias
            return weight @ first + bias
        if kind == "activation":
            return first.clamp(0, 6)
        if kind == "add":
            return inputs[0] + inputs[1]
        if kind == "concatenate":
            return torch.cat(inputs)
        if kind == "max_pool":
            return functional.max_pool2d(first[None], 3, 2, 1)[0]
        if kind == "average_pool":
            return first.mean((1, 2), keepdim=True)
        return first.flatten()

    def summary(self) -> dict[str, Any]:
        ends = list(LAYERS)
        steps = []
        for index, op in enumerate(PROGRAM):
            layer = next((place for place, end in enumerate(ends) if end >= index), len(ends))
            step = {"step": index, "name": op["name"], "kind": op["kind"], "operation": self._words(op), "reads": op["reads"],
                    "shape": list(self.outputs[index].shape), "layer": layer, "folded": op.get("folded")}  # fmt: skip
            if op["kind"] == "convolution":
                size, stride = op["size"], op.get("stride", 1)
                step |= {"kernel": [size, size], "stride": [stride, stride], "padding": [[size // 2] * 2] * 2,
                         "dilation": [1, 1], "groups": op.get("groups", 1)}  # fmt: skip
            steps.append(step)
        layers = []
        for end, name in LAYERS.items():
            largest = self.outputs[end].abs().amax((1, 2))
            best = largest.argsort(descending=True)[:8].tolist() if end else [0, 1, 2]
            strongest = [{"channel": channel, "largest": float(largest[channel])} for channel in best]
            layers.append({"name": name, "step": end, "shape": list(self.outputs[end].shape), "strongest": strongest})
        logits = self.outputs[-1]
        shares = logits.softmax(0)
        classes = [
            {"class": each, "logit": float(logits[each]), "probability": float(shares[each])}
            for each in logits.argsort(descending=True)[:5].tolist()
        ]
        others = 1 - sum(each["probability"] for each in classes)
        answer = {"step": len(PROGRAM) - 1, "classes": classes, "others": others}
        return {"network": "made", "size": SIDE, "mean": MEAN, "std": STD, "steps": steps, "layers": layers, "answer": answer}

    @staticmethod
    def _words(op: dict[str, Any]) -> str:
        if op["kind"] == "convolution":
            depthwise = "depthwise " if op.get("groups", 1) > 1 else ""
            stride = f", stride {op['stride']}" if "stride" in op else ""
            return f"{depthwise}convolution {op['size']}×{op['size']}{stride}"
        return {"activation": "ReLU6", "max_pool": "max pool 3×3, stride 2", "average_pool": "global average pool",
                "move": "flatten"}.get(op["kind"], op["kind"])  # fmt: skip

    def maps(self, step: int, channels: list[int]) -> dict[str, str]:
        output = self.outputs[step]
        if output.ndim == 1:
            return {"0": base64.b64encode(output.numpy().astype("<f4").tobytes()).decode()}
        return {str(each): base64.b64encode(output[each].numpy().astype("<f4").tobytes()).decode() for each in channels}

    def unit(self, step: int, channel: int, y: int, x: int, terms: int) -> dict[str, Any]:
        op, output = PROGRAM[step], self.outputs[step]
        value = float(output[channel, y, x] if output.ndim == 3 else output[channel])
        found = {"step": step, "channel": channel, "y": y, "x": x, "kind": op["kind"], "value": value, "total": value,
                 "terms": [], "rest": None, "bias": None, "formula": None, "inner": None}  # fmt: skip
        kind, reads = op["kind"], op["reads"]
        if kind in ("convolution", "linear", "max_pool", "average_pool"):
            all_terms = self._patches(step, channel, y, x)
            all_terms.sort(key=lambda term: -abs(term["sum"]))
            bias = float(self.weights[step][1][channel]) if step in self.weights else None
            rest = [term["sum"] for term in all_terms[terms:]]
            found |= {"terms": all_terms[:terms], "bias": bias, "rest": {"count": len(rest), "sum": sum(rest)} if rest else None,
                      "total": sum(term["sum"] for term in all_terms) + (bias or 0)}  # fmt: skip
            if kind.endswith("pool"):
                found["formula"] = {"name": "maximum" if kind == "max_pool" else "mean", "text": "", "input": None}
        elif kind == "activation":
            inner = self.unit(reads[0], channel, y, x, terms)
            formula = {"name": "ReLU6", "text": "min(max(x, 0), 6)", "input": inner["total"]}
            found |= {"formula": formula, "inner": inner, "total": min(max(inner["total"], 0), 6)}
        elif kind == "add":
            summands = [self._single(read, channel, y, x) for read in reads]
            found |= {"terms": summands, "total": sum(each["sum"] for each in summands)}
        elif kind == "concatenate":
            first = len(self.outputs[reads[0]])
            read, from_channel = (reads[0], channel) if channel < first else (reads[1], channel - first)
            found |= {"terms": [self._single(read, from_channel, y, x)]}
        elif kind == "move":
            found |= {"terms": [self._single(reads[0], channel, 0, 0)], "inner": self.unit(reads[0], channel, 0, 0, terms)}
        return found

    def _single(self, step: int, channel: int, y: int, x: int) -> dict[str, Any]:
        value = float(self.outputs[step].reshape(len(self.outputs[step]), -1)[channel].reshape(self.outputs[step].shape[1:] or (1, 1))[y, x])
        return {"step": step, "channel": channel, "title": f"channel {channel} of {PROGRAM[step]['name']}", "y": y, "x": x,
                "sum": value, "patch": [[value]], "kernel": None}  # fmt: skip

    def _patches(self, step: int, channel: int, y: int, x: int) -> list[dict[str, Any]]:
        op, read = PROGRAM[step], PROGRAM[step]["reads"][0]
        source, name = self.outputs[read], PROGRAM[read]["name"]
        if op["kind"] == "linear":
            return [
                {"step": read, "channel": each, "title": f"feature {each}", "y": 0, "x": 0, "sum": float(weight * value),
                 "patch": [[float(value)]], "kernel": [[float(weight)]]}
                for each, (value, weight) in enumerate(zip(source, self.weights[step][0][channel]))
            ]  # fmt: skip
        if op["kind"] == "average_pool":
            patch = source[channel]
            kernel = torch.full_like(patch, 1 / patch.numel())
            return [{"step": read, "channel": channel, "title": f"channel {channel} of {name}", "y": 0, "x": 0,
                     "sum": float(patch.mean()), "patch": patch.tolist(), "kernel": kernel.tolist()}]  # fmt: skip
        size, stride = (3, 2) if op["kind"] == "max_pool" else (op["size"], op.get("stride", 1))
        top, left = y * stride - size // 2, x * stride - size // 2
        padded = functional.pad(source, [size // 2] * 4)
        cut = padded[:, y * stride : y * stride + size, x * stride : x * stride + size]
        if op["kind"] == "max_pool":
            patch = cut[channel]
            row, col = divmod(int(patch.argmax()), size)
            return [{"step": read, "channel": channel, "title": f"channel {channel} of {name}", "y": top, "x": left,
                     "sum": float(patch.max()), "patch": patch.tolist(), "kernel": None, "largest": [row, col]}]  # fmt: skip
        weight = self.weights[step][0][channel]
        channels = [channel] if op.get("groups", 1) > 1 else list(range(len(source)))
        return [
            {"step": read, "channel": each, "title": f"channel {each} of {name}", "y": top, "x": left,
             "sum": float((cut[each] * kernel).sum()), "patch": cut[each].tolist(), "kernel": kernel.tolist()}
            for each, kernel in zip(channels, weight)
        ]  # fmt: skip
