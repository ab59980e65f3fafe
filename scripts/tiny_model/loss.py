"""Cross entropy through the tied embedding, without keeping 32,768 floats per token alive.

Main type: `TiedCrossEntropy`. Gradients are computed in the forward pass, a few rows at a time,
so that the large intermediates stay small and are reused: on two CPU cores the plain version
spends more time on memory than on arithmetic. Invariant: equals sum(weights * cross_entropy).
"""

import torch

ROWS = 128


class TiedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, embedding, targets, weights):
        """hidden (n, d), embedding (vocab, d), targets (n), weights (n) -> scalar."""
        low, table = hidden.bfloat16(), embedding.bfloat16()
        gradients = torch.empty(len(low), len(table), dtype=torch.bfloat16, device=low.device)
        loss = torch.zeros((), device=low.device)
        for first in range(0, len(low), ROWS):
            rows = slice(first, first + ROWS)
            scores = (low[rows] @ table.T).float()  # (rows, vocab)
            column = targets[rows, None]
            scores -= scores.amax(1, keepdim=True)
            right = scores.gather(1, column)
            scores.exp_()
            total = scores.sum(1, keepdim=True)
            loss += ((total.log() - right)[:, 0] * weights[rows]).sum()
            scores *= weights[rows, None] / total
            scores.scatter_add_(1, column, -weights[rows, None])
            gradients[rows] = scores
        ctx.save_for_backward(gradients @ table, gradients.T @ low)
        return loss

    @staticmethod
    def backward(ctx, upstream):
        for_hidden, for_embedding = ctx.saved_tensors
        return for_hidden * upstream, for_embedding.float() * upstream, None, None
