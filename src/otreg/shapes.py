"""Shape annotations, checked under pytest by jaxtyping and plain documentation without it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:  # jaxtyping is a development dependency

        class _Unchecked:
            """Stands for a jaxtyping array type: ``Float[Tensor, "axes"]`` is then ``Tensor``."""

            def __class_getitem__(cls, item):
                return item[0]

        Bool = Float = Int = _Unchecked

__all__ = ["Bool", "Float", "Int"]
