"""What is averaged over parts of the image, against torch's own averages of the maps."""

import pytest
import torch
import torch.nn.functional as F

from adapters.pooling import pooled


@pytest.mark.parametrize(
    ("height", "columns", "prefix", "grid"),
    [(6, 6, 1, (6, 6)), (6, 6, 5, None), (4, 9, 2, (4, 9)), (8, 8, 1, (6, 6)), (4, 4, 1, (6, 6))],
    ids=["its grid", "a square", "not a square", "larger images than the grid's", "smaller ones"],
)
def test_cells_are_those_of_the_image_whatever_comes_before_its_tokens(height, columns, prefix, grid):
    maps = torch.randn(2, 5, height, columns, generator=torch.Generator().manual_seed(0))
    tokens = torch.cat([torch.full((2, prefix, 5), 99.0), maps.flatten(2).transpose(1, 2)], dim=1)
    expected = F.adaptive_avg_pool2d(maps, 2).flatten(1)
    torch.testing.assert_close(pooled(tokens, 5, 2, grid), expected)
    torch.testing.assert_close(pooled(maps, 5, 2), expected)
    torch.testing.assert_close(pooled(maps.permute(0, 2, 3, 1), 5, 2), expected)
