"""What becomes of the answers that were kept for repeats, once the user they are about is erased."""

from collections.abc import Sequence

from eventspine.idempotency import forget
from eventspine.outbox import Transaction
from shop.platform.problems import UserErased


async def forget_users(tx: Transaction, ids: Sequence[int]) -> None:
    """No stored answer holds the data of these any more."""
    await forget(tx, [str(id_) for id_ in ids], UserErased().answer())
