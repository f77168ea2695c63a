"""Times convolutions and training steps in PyTorch: one JSON request a line on stdin, one JSON answer a line on stdout."""
import json
import sys
import time

import torch
import torch.nn.functional as F

LAST = torch.channels_last


def answer(**values):
    print(json.dumps(values), flush=True)


class Network(torch.nn.Module):
    """The two graphs of the network description; batch norm and ReLU behind every convolution but the last ones."""

    def __init__(self, encoder, heads, context):
        super().__init__()
        self.encoder, self.heads, self.context = encoder, heads, context
        self.convs, self.norms = torch.nn.ModuleDict(), torch.nn.ModuleDict()
        for node in encoder["nodes"] + heads["nodes"]:
            if node["op"] == "conv":
                name = node["name"].replace(".", "_")
                plain = not node["norm_relu"]
                self.convs[name] = torch.nn.Conv2d(node["inputs"], node["outputs"], node["kernel"], node["stride"], node["kernel"] // 2, bias=plain)
                if not plain:
                    self.norms[name] = torch.nn.BatchNorm2d(node["outputs"], momentum=0.03)

    def walk(self, graph, inputs):
        inputs, values = iter(inputs), []
        for node in graph["nodes"]:
            of = [values[i] for i in node["of"]]
            if node["op"] == "input":
                value = next(inputs)
            elif node["op"] == "conv":
                name = node["name"].replace(".", "_")
                value = self.convs[name](of[0])
                if name in self.norms:
                    value = F.relu(self.norms[name](value))
            elif node["op"] == "add":
                value = of[0] + of[1]
            elif node["op"] == "concat":
                value = torch.cat(of, 1)
            else:
                value = F.interpolate(of[0], scale_factor=2, mode="nearest")
            values.append(value)
        return [values[i] for i in graph["outputs"]]

    def forward(self, x):
        return self.walk(self.heads, [torch.cat([m] * self.context, 1) for m in self.walk(self.encoder, [x])])


def conv(shape):
    b, h, w, i, o, k, s = (shape[n] for n in ("batch", "height", "width", "inputs", "outputs", "kernel", "stride"))
    x = torch.randn(b, i, h, w).to(memory_format=LAST).requires_grad_()
    weight = torch.randn(o, i, k, k).to(memory_format=LAST).requires_grad_()
    start = time.perf_counter()
    y = F.conv2d(x, weight, stride=s, padding=k // 2)
    y.sum().backward()
    return (time.perf_counter() - start) * 1000


network = optimizer = None
for line in sys.stdin:
    request = json.loads(line)
    if request["what"] == "hello":
        torch.set_num_threads(request["threads"])
        answer(version=torch.__version__)
    elif request["what"] == "conv":
        answer(ms=conv(request["shape"]))
    elif request["what"] == "network":
        network = Network(request["encoder"], request["heads"], request["context"]).to(memory_format=LAST)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.02)
        answer(parameters=sum(p.numel() for p in network.parameters()))
    else:
        x = torch.rand(request["batch"], 3, request["side"], request["side"]).to(memory_format=LAST)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = sum((y * y).mean() for y in network(x))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        answer(ms=(time.perf_counter() - start) * 1000)
