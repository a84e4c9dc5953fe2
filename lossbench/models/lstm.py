"""A recurrent language model: embedding, LSTM layers, linear head."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from lossbench.errors import UserError
from lossbench.models.base import register

Count = Annotated[int, Field(ge=1)]
State = tuple[Tensor, Tensor]


@register
def lstm(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    embedding: Count = 256,
    hidden: Count = 512,
    layers: Count = 2,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    truncate: Annotated[int, Field(ge=0)] = 35,
) -> nn.Module:
    """Embedding, LSTM layers (Hochreiter & Schmidhuber 1997), linear head; logits of the next token.

    Dropout stands before every layer and before the head, never on the recurrent connections
    (Zaremba et al. 2014, 1409.2329).

    Args:
        input_shape: (L,), token numbers; the model itself takes any length.
        outputs: tokens in the vocabulary, in and out.
        embedding: units per token.
        hidden: units per layer.
        layers: LSTMs on top of one another.
        dropout: share of units.
        truncate: steps after which gradients stop flowing back through the state (truncated
            back-propagation through time); 0: never within a window.

    """
    if len(input_shape) != 1:
        raise UserError(
            f"model 'lstm' reads tokens (L,), found samples of shape {input_shape}; allowed: text"
        )
    return LanguageLSTM(outputs, embedding, hidden, layers, dropout, truncate)


class LanguageLSTM(nn.Module):
    """Tokens (N, L) → logits (N, V, L); the state is empty at the start of every window."""

    def __init__(
        self, tokens: int, embedding: int, hidden: int, layers: int, dropout: float, truncate: int
    ) -> None:
        super().__init__()
        self.truncate = truncate
        self.embed = nn.Embedding(tokens, embedding)
        # A module per layer, so that the dropouts between are modules too: a population draws their masks.
        widths = [embedding, *[hidden] * layers]
        self.layers = nn.ModuleList(nn.LSTM(widths[i], hidden, batch_first=True) for i in range(layers))
        self.drops = nn.ModuleList(nn.Dropout(dropout) for _ in range(layers + 1))
        self.head = nn.Linear(hidden, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run over the window; the state passes on, its gradient only within ``truncate`` steps."""
        features: Tensor = self.embed(tokens)
        for drop, layer in zip(self.drops, self.layers, strict=False):
            features = self._run(layer, drop(features))
        logits: Tensor = self.head(self.drops[-1](features))
        return logits.transpose(1, 2)

    def _run(self, layer: nn.Module, features: Tensor) -> Tensor:
        # Layer by layer is the same function and the same gradient as step by step: detached states cut time,
        # and nothing else leads from one stretch to another.
        state: State | None = None
        parts = []
        for stretch in torch.split(features, self.truncate or features.shape[1], dim=1):
            out, state = layer(stretch, state)
            state = (state[0].detach(), state[1].detach())
            parts.append(out)
        return torch.cat(parts, dim=1)
