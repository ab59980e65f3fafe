"""Trains the tiny model on generated samples; on a GPU if there is one.

Main type: `Run`, whose checkpoint holds everything that a resumed run needs. The learning rate
follows the share of the time budget that is used (or of `--steps`): warm-up, constant, then a
linear decay over the last part. `echo 10 > <out>/decay` starts a decay of ten minutes at once.

    python train.py --minutes 60 --out /tmp/tiny
"""

import argparse
import collections
import json
import os
import pathlib
import time

import torch
from torch import distributed, multiprocessing

from batches import split, stream
from data import MIX, generate
from initial import initialise
from loss import TiedCrossEntropy
from model import Config, Decoder
from optimizers import RowAdam
from render import Renderer

BETAS = (0.9, 0.98)
RIVALS = 2048     # random tokens that an answer's token has to beat, besides those of the batch
STOP = -1.0       # in place of a learning rate: the budget is used up
# The written circuits (see initial.py) are lost within a hundred steps if they and the embedding, which they read,
# learn as fast as the rest. Shares of the learning rate at the start and from the step CIRCUIT_STEPS on:
CIRCUIT_LAYERS = ("layers.0.self_attn", "layers.1.self_attn", "layers.2.self_attn")
CIRCUIT_SHARE, CIRCUIT_STEPS = (0.05, 0.6), 2000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("/tmp/tramontane-tiny"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, help="a budget of steps instead of minutes (reproducible)")
    parser.add_argument("--weights", type=pathlib.Path, help="begin with the weights of this checkpoint of another run")
    parser.add_argument("--chunk", type=int, default=0, help="begin at this chunk of the data, and of its curriculum")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=3.2e-3)
    parser.add_argument("--decay-share", type=float, default=0.5)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each (CPU only)")
    parser.add_argument("--evaluate-minutes", type=float, default=8)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if torch.cuda.is_available():
        arguments.workers = 1
    multiprocessing.spawn(work, (arguments,), nprocs=arguments.workers)


def work(rank, arguments):
    torch.manual_seed(arguments.seed)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    meeting = f"file://{arguments.out.resolve()}/meeting-{os.getppid()}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=arguments.workers)
    Run(arguments, rank).train()


class Run:
    """Worker `rank` of `workers`: all hold the same weights and add up their gradients.

    Threads would meet thousands of times per step and stall whenever one of them has to wait for a
    busy core; processes meet once.
    """

    def __init__(self, arguments, rank):
        self.arguments, self.rank = arguments, rank
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model, tokenizer = Decoder(Config()), Renderer().model
        initialise(self.model, [tokenizer.id_to_piece(token) for token in range(tokenizer.vocab_size())])
        self.model.to(self.device)
        if arguments.weights:
            self.model.load_state_dict(torch.load(arguments.weights, map_location=self.device, weights_only=True)["model"])
        trained = {n: p for n, p in self.model.named_parameters() if not n.startswith("embed")}
        circuits = [p for n, p in trained.items() if n.startswith(CIRCUIT_LAYERS)]
        matrices = [p for n, p in trained.items() if p.dim() == 2 and not n.startswith(CIRCUIT_LAYERS)]
        gains = [p for p in trained.values() if p.dim() == 1]
        self.parameters = [*circuits, *matrices, *gains]
        self.muon = torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        groups = [{"params": circuits, "weight_decay": 0.02}, {"params": gains, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, betas=BETAS)
        self.row_adam = RowAdam(self.model.embed_tokens.weight.detach(), BETAS)
        self.optimizers = [self.muon, self.adam, self.row_adam]
        self.state = {"step": 0, "chunk": arguments.chunk, "tokens": 0, "seconds": 0.0, "decay_from": 1.0 - arguments.decay_share}
        self.budget = 60.0 * arguments.minutes  # seconds
        self.next_factor = 0.01  # rank 0 decides on the learning rate, the others are told
        self.checkpoint = arguments.out / "checkpoint.pt"
        self.log = (arguments.out / "log.jsonl").open("a")
        if self.checkpoint.exists():
            self._load()

    def train(self):
        arguments, state = self.arguments, self.state
        evaluated = saved = time.monotonic()
        losses = collections.deque(maxlen=20)
        for chunk, steps in stream(arguments.seed, state["chunk"]):
            for samples in steps:
                started = time.monotonic()
                losses.append(self._step(samples))
                state["step"] += 1
                state["seconds"] += time.monotonic() - started
                if self.next_factor == STOP:
                    return self._finish()
                if self.rank > 0:
                    continue
                if state["step"] % 20 == 0:
                    self._write(loss=round(sum(losses) / len(losses), 4), rate=round(self.next_factor, 3))
                if time.monotonic() - saved > 180:
                    self._save()
                    saved = time.monotonic()
                if time.monotonic() - evaluated > 60 * arguments.evaluate_minutes:
                    self._evaluate(30)
                    evaluated = time.monotonic()
            state["chunk"] = chunk + 1

    def progress(self):
        if self.arguments.steps:
            return self.state["step"] / self.arguments.steps
        return self.state["seconds"] / self.budget

    def factor(self):
        """Share of the peak learning rate."""
        asked, state = self.arguments.out / "decay", self.state
        if asked.exists() and not self.arguments.steps:
            self.budget = state["seconds"] + 60 * float(asked.read_text() or 10)
            state["decay_from"] = self.progress()
            asked.rename(asked.with_suffix(".begun"))
        progress = self.progress()
        if progress >= 1.0:
            return STOP
        warm = min(1.0, (state["step"] + 1) / 100)
        if progress <= state["decay_from"]:
            return warm
        return warm * max(0.02, (1.0 - progress) / (1.0 - state["decay_from"]))

    def _step(self, samples):
        """One update. Only the embedding's rows of the step's tokens, and of some rivals, take part."""
        shares = [split(samples, rank, self.arguments.workers) for rank in range(self.arguments.workers)]
        batches = [self._to_device(*batch) for share in shares for batch in share]
        rivals = torch.randint(self.model.config.vocab_size, (RIVALS,), device=self.device, generator=self._generator())
        rows = torch.cat([tokens.flatten() for tokens, _ in batches] + [rivals]).unique()
        table = self.model.embed_tokens.weight.detach()[rows].requires_grad_()
        total = sum(float(weights.sum()) for _, weights in batches)
        value = 0.0
        for tokens, weights in (self._to_device(*batch) for batch in shares[self.rank]):
            hidden, targets, weights = self._predict(torch.searchsorted(rows, tokens), weights, table)
            loss = TiedCrossEntropy.apply(hidden, table, targets, weights) / total
            loss.backward()
            value += float(loss.detach())
        self.state["tokens"] += sum(int((tokens > 0).sum()) for tokens, _ in batches)
        value = self._share(value, [*self.parameters, table])
        torch.nn.utils.clip_grad_norm_([*self.parameters, table], 1.0)
        rate = self.arguments.learning_rate * max(self.next_factor, 0.0)
        first, last = CIRCUIT_SHARE
        circuits_hold = self.arguments.weights is not None
        slow = rate * (last if circuits_hold else first + (last - first) * min(1.0, self.state["step"] / CIRCUIT_STEPS))
        for group, group_rate in zip((*self.muon.param_groups, *self.adam.param_groups), (rate, slow, rate)):
            group["lr"] = group_rate
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.row_adam.step(rows, table.grad, slow)
        return value

    def _to_device(self, tokens, weights):
        return torch.from_numpy(tokens).to(self.device).long(), torch.from_numpy(weights).to(self.device)

    def _share(self, loss, parameters):
        """Add up gradients and loss over the workers; hear the learning rate from rank 0."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        tail = torch.tensor([loss, self.factor() if self.rank == 0 else 0.0], device=self.device)
        flat = torch.cat([g.flatten() for g in gradients] + [tail])
        distributed.all_reduce(flat)
        for parameter, part in zip(parameters, flat[:-2].split([p.numel() for p in parameters])):
            parameter.grad = part.view_as(parameter)
        self.next_factor = float(flat[-1])
        return float(flat[-2])

    def _generator(self):
        """The same random numbers on every worker."""
        return torch.Generator(self.device).manual_seed(1_000_003 * self.arguments.seed + self.state["step"])

    def _predict(self, tokens, weights, table=None):
        """(hidden states, targets, weights) of every token that has a weight."""
        rows, columns = torch.nonzero(weights[:, 1:], as_tuple=True)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            hidden = self.model(tokens[:, :-1], table=table, wanted=(rows, columns))  # (n_predicted, hidden)
        return hidden, tokens[:, 1:][rows, columns], weights[:, 1:][rows, columns]

    @torch.no_grad()
    def _evaluate(self, samples_per_skill):
        """Share of held-out answers in which every token is the most likely one, by skill.

        For the last answer of a conversation this is the same as exact greedy decoding.
        """
        self.model.eval()
        renderer, result = Renderer(), {}
        for skill in MIX:
            right = count = 0
            samples = []
            for index in range(samples_per_skill):
                sample = generate("heldout", 900, index, skill=skill)
                tokens, mask = renderer.training_tokens(sample)
                answer = len(tokens) - len(renderer.prompt(sample["request"]))
                samples.append((tokens, [False] * (len(tokens) - answer) + [True] * answer))
            for tokens, weights in split(samples):
                tokens, weights = self._to_device(tokens, weights)
                hidden, targets, _ = self._predict(tokens, weights)
                wrong = weights[:, 1:].nonzero()[self.model.logits(hidden.float()).argmax(-1) != targets, 0].unique()
                right += len(tokens) - len(wrong)
                count += len(tokens)
            result[skill] = round(right / count, 3)
        self.model.train()
        self._write(exact=result)

    def _write(self, **values):
        state = self.state
        line = {"step": state["step"], "minutes": round(state["seconds"] / 60, 1), "tokens": state["tokens"], "chunk": state["chunk"], **values}
        print(json.dumps(line), file=self.log, flush=True)
        print(json.dumps(line), flush=True)

    def _save(self):
        partial = self.checkpoint.with_suffix(".partial")
        torch.save({"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers], "state": self.state}, partial)
        partial.replace(self.checkpoint)

    def _load(self):
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        for optimizer, values in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict(values)
        self.state.update(saved["state"])

    def _finish(self):
        if self.rank == 0:
            self._save()
            self._evaluate(100)


if __name__ == "__main__":
    main()
