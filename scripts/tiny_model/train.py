"""Trains the tiny model on generated samples; on a GPU if there is one.

Main type: `Run`, whose checkpoint holds everything that a resumed run needs. The learning rate
follows the share of the time budget that is used (or of `--steps`): warm-up, constant, then a
linear decay over the last part. Touching the file `<out>/decay` starts the decay at once.

    python train.py --minutes 60 --out /tmp/tiny
"""

import argparse
import json
import pathlib
import time

import torch
from torch.nn import functional

from batches import bucket, stream
from data import MIX, generate
from model import Config, Decoder
from render import Renderer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("/tmp/tramontane-tiny"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, help="a budget of steps instead of minutes (reproducible)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--decay-share", type=float, default=0.3)
    parser.add_argument("--microbatch-tokens", type=int, default=4096)
    parser.add_argument("--microbatches", type=int, default=2)
    parser.add_argument("--evaluate-minutes", type=float, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    Run(arguments).train()


class Run:
    def __init__(self, arguments):
        self.arguments = arguments
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = Decoder(Config()).to(self.device)
        matrices = [p for n, p in self.model.named_parameters() if p.dim() == 2 and not n.startswith("embed")]
        others = [p for n, p in self.model.named_parameters() if p.dim() != 2 or n.startswith("embed")]
        rate = arguments.learning_rate
        if arguments.optimizer == "muon":
            self.optimizers = [torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
                               torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]
        else:
            self.optimizers = [torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
                                                 lr=rate, betas=(0.9, 0.98))]
        self.state = {"step": 0, "chunk": 0, "tokens": 0, "seconds": 0.0, "decay_from": 1.0 - arguments.decay_share}
        self.checkpoint = arguments.out / "checkpoint.pt"
        self.log = (arguments.out / "log.jsonl").open("a")
        if self.checkpoint.exists():
            self._load()

    def train(self):
        arguments, state = self.arguments, self.state
        evaluated = saved = time.monotonic()
        for chunk, batches in stream(arguments.seed, state["chunk"], arguments.microbatch_tokens):
            for first in range(0, len(batches), arguments.microbatches):
                started = time.monotonic()
                loss = self._step(batches[first : first + arguments.microbatches])
                state["step"] += 1
                state["seconds"] += time.monotonic() - started
                if state["step"] % 20 == 0:
                    self._write(loss=round(loss, 4), rate=round(self.factor(), 3))
                if self.progress() >= 1.0:
                    return self._finish()
                if time.monotonic() - saved > 180:
                    self._save()
                    saved = time.monotonic()
                if time.monotonic() - evaluated > 60 * arguments.evaluate_minutes:
                    self._evaluate(40)
                    evaluated = time.monotonic()
            state["chunk"] = chunk + 1

    def progress(self):
        if self.arguments.steps:
            return self.state["step"] / self.arguments.steps
        return self.state["seconds"] / (60 * self.arguments.minutes)

    def factor(self):
        """Share of the peak learning rate."""
        progress, state = self.progress(), self.state
        if (self.arguments.out / "decay").exists() and progress < state["decay_from"]:
            state["decay_from"] = progress
        warm = min(1.0, (state["step"] + 1) / 100)
        if progress <= state["decay_from"]:
            return warm
        return warm * max(0.02, (1.0 - progress) / (1.0 - state["decay_from"]))

    def _step(self, batches):
        factor = self.factor()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.arguments.learning_rate * factor
            optimizer.zero_grad(set_to_none=True)
        total = sum(float(weights.sum()) for _, weights in batches)
        value = 0.0
        for tokens, weights in batches:
            loss = self._losses(tokens, weights)[0] / total
            loss.backward()
            value += float(loss.detach())
            self.state["tokens"] += int((tokens > 0).sum())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return value

    def _losses(self, tokens, weights):
        """(weighted sum of the losses, right or wrong per predicted token, the token's row)."""
        tokens = torch.from_numpy(tokens).to(self.device).long()
        weights = torch.from_numpy(weights).to(self.device)[:, 1:]
        rows, columns = torch.nonzero(weights, as_tuple=True)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            hidden = self.model(tokens[:, :-1])[rows, columns]  # (n_predicted, hidden)
            logits = self.model.logits(hidden)
        targets = tokens[:, 1:][rows, columns]
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        return (losses * weights[rows, columns]).sum(), logits.argmax(-1) == targets, rows

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
            import random
            for tokens, weights in bucket(samples, self.arguments.microbatch_tokens, random.Random(0)):
                _, correct, rows = self._losses(tokens, weights)
                wrong = set(rows[~correct].tolist())
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
        self._save()
        self._evaluate(100)


if __name__ == "__main__":
    main()
