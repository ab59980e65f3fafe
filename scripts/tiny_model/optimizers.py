"""Adam for an embedding of which each step sees a few rows.

Main type: `RowAdam`. Plain Adam divides by the size of past gradients, so it moves the rows of rare
tokens by full steps for next to no reason, until the model can no longer tell them apart and
copying breaks; here a row moves only in the steps that use it. Knows nothing of the model.
"""

import torch


class RowAdam:
    def __init__(self, weight, betas, epsilon=1e-6):
        self.weight, self.betas, self.epsilon = weight, betas, epsilon
        self.mean, self.square = torch.zeros_like(weight), torch.zeros_like(weight)
        self.count = torch.zeros(len(weight), 1, device=weight.device)

    @torch.no_grad()
    def step(self, rows, gradient, rate):
        """rows (n) without duplicates, gradient (n, d)."""
        count = self.count[rows] + 1
        mean = self.mean[rows].lerp_(gradient, 1 - self.betas[0])
        square = self.square[rows].lerp_(gradient.square(), 1 - self.betas[1])
        self.count[rows], self.mean[rows], self.square[rows] = count, mean, square
        size = (square / (1 - self.betas[1] ** count)).sqrt_().add_(self.epsilon)
        self.weight[rows] -= rate * (mean / (1 - self.betas[0] ** count)) / size

    def state_dict(self):
        return {"mean": self.mean, "square": self.square, "count": self.count}

    def load_state_dict(self, state):
        for name, value in state.items():
            getattr(self, name).copy_(value)
