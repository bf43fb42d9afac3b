"""Orthogonal matrices whose entries are alike in size, so that no channel of a rotated vector stands out.

A Hadamard matrix H of order n has entries of +-1 and H H^T = n I. [paley1933] gives those of order q + 1 for primes
q = 3 mod 4 and 2 (q + 1) for q = 1 mod 4; Kronecker products with [[1, 1], [1, -1]] double an order.
"""

import numpy as np

from lpcompile.formats.arrays import F64


def rotation(n: int, rng: np.random.Generator, *, keeps_mean: bool) -> F64:
    """A random orthogonal matrix Q (n, n) for x -> x Q [ashkboos2024, sec. 3.1].

    Args:
        n: width; where no Hadamard matrix of this order is known, blocks of the largest order that divides it.
        rng: draws the signs.
        keeps_mean: Q 1 = 1 as well, so that subtracting the mean of a vector commutes with Q: H S H^T / n with
            random signs S, the first being +1, instead of S H / sqrt(n).
    """
    order = next(m for m in range(n, 0, -1) if n % m == 0 and hadamard(m) is not None)
    h = hadamard(order)
    assert h is not None
    found = np.zeros((n, n))
    for at in range(0, n, order):
        signs = rng.choice([-1.0, 1.0], order)
        if keeps_mean:
            signs[0] = 1
            block = (h * signs) @ h.T / order
        else:
            block = signs[:, None] * h / np.sqrt(order)
        found[at : at + order, at : at + order] = block
    return found


def hadamard(n: int) -> F64 | None:
    """A Hadamard matrix of order n, its first column all ones; None where none is known here."""
    m = n
    while True:
        found = _odd_kernel(m)
        if found is not None:
            break
        if m % 2:
            return None
        m //= 2
    while len(found) < n:
        found = np.asarray(np.kron([[1.0, 1.0], [1.0, -1.0]], found), np.float64)
    return np.asarray(found * found[:, :1])


def _odd_kernel(m: int) -> F64 | None:
    """Of order 1, or by one of Paley's constructions."""
    if m == 1:
        return np.ones((1, 1))
    if m % 4:
        return None
    if _is_prime(m - 1):
        s = _conference(m - 1, -1)
        return np.asarray(s + np.eye(m))
    if _is_prime(m // 2 - 1) and (m // 2 - 1) % 4 == 1:
        s = _conference(m // 2 - 1, 1)
        one, two = np.array([[1.0, 1.0], [1.0, -1.0]]), np.array([[1.0, -1.0], [-1.0, -1.0]])
        return np.asarray(np.kron(s, one) + np.kron(np.eye(m // 2), two))
    return None


def _conference(q: int, corner: int) -> F64:
    """Quadratic residues mod q, bordered: S S^T = q I, symmetric or, with corner -1, skew."""
    squares = np.zeros(q)
    squares[np.unique(np.arange(1, q) ** 2 % q)] = 2
    character = squares - 1
    character[0] = 0
    found = np.zeros((q + 1, q + 1))
    found[1:, 1:] = character[(np.arange(q)[:, None] - np.arange(q)) % q]
    found[0, 1:], found[1:, 0] = 1, corner
    return found


def _is_prime(q: int) -> bool:
    return q > 2 and all(q % d for d in range(2, int(q**0.5) + 1))
