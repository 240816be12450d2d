"""What a flat function need not do: equations of constants are evaluated, unread ones dropped, arrays made operands."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jax_mps._compat import across_devices, has_sizes, is_array_type
from jax_mps.compiler.equations.equation import Atom, Constant, Equation, Flat, Variable
from jax_mps.compiler.equations.evaluate import evaluate
from jax_mps.eager import unchecked

# What may run while a function is traced. All else may call back, print, raise or take its time.
_FOLDED_NAMES = """
abs acos acosh add add_any and argmax argmin asin asinh atan atan2 atanh bitcast_convert_type broadcast_in_dim cbrt
ceil clamp clz complex concatenate conj convert_element_type cos cosh cumlogsumexp cummax cummin cumprod cumsum
digamma div dot_general dynamic_slice dynamic_update_slice eq erf erf_inv erfc exp exp2 expand_dims expm1 floor gather
ge gt imag integer_pow is_finite le lgamma log log1p log2 logistic lt max min mul ne neg nextafter not
one_minus_square or pad polynomial population_count pow real reduce_and reduce_max reduce_min reduce_or
reduce_precision reduce_prod reduce_sum reduce_xor rem reshape rev round rsqrt scatter select_n shift_left
shift_right_arithmetic shift_right_logical sign sin sinh slice sort split sqrt square squeeze stack sub tan tanh tile
transpose unstack xor
"""
_FOLDED = frozenset(_FOLDED_NAMES.split())
_FOLDED_OPERAND, _FOLDED_RESULT = 4096, 64  # elements


def fold_constants(flat: Flat) -> None:
    """Evaluates equations of small constants, but not of the values of a trace around this one."""
    known: dict[Atom, Constant] = {}
    kept = []
    for equation in flat.equations:
        equation.operands = [known.get(o, o) for o in equation.operands]
        values = _folded(equation)
        if values is None:
            kept.append(equation)
        else:
            made = zip(equation.results, values, strict=True)
            known.update((r, Constant(np.asarray(v), r.aval)) for r, v in made)
    flat.equations = kept
    flat.outputs = [known.get(o, o) for o in flat.outputs]


def _folded(equation: Equation) -> list[Any] | None:
    """The results of an equation that folds; None of another."""
    if not _folds(equation):
        return None
    constants = [o.value for o in equation.operands if isinstance(o, Constant)]
    with jax.ensure_compile_time_eval(), unchecked():
        values = evaluate(equation, constants)
    # In a shard_map without jit nothing is evaluated but by its trace.
    return None if any(isinstance(v, jax.core.Tracer) for v in values) else values


def _folds(equation: Equation) -> bool:
    """Whether an equation may be evaluated while the function is traced: it is known to do nothing else, and small."""
    if equation.name not in _FOLDED or equation.effects or not equation.operands:
        return False
    if not all(isinstance(o, Constant) and not isinstance(o.value, jax.core.Tracer) for o in equation.operands):
        return False
    operands, results = ([a.aval for a in atoms] for atoms in (equation.operands, equation.results))
    if not all(map(has_sizes, results)):
        return False
    if any(a.size > _FOLDED_OPERAND for a in operands) or any(a.size > _FOLDED_RESULT for a in results):
        return False
    types = [a.dtype for a in (*operands, *results)]
    keys = any(jax.dtypes.issubdtype(t, jax.dtypes.extended) for t in types)
    return not keys and not across_devices(equation.params, results)


def drop_dead(flat: Flat) -> None:
    """Drops the equations whose results nobody reads, but for effects."""
    live = set(flat.outputs)
    kept = []
    for equation in reversed(flat.equations):
        if equation.effects or any(r in live for r in equation.results):
            kept.append(equation)
            live.update(equation.operands)
    flat.equations = kept[::-1]


def capture_arrays(flat: Flat) -> None:
    """Makes constants that are no single number variables, so that regions read them like any operand."""

    def variable(atom: Atom) -> Atom:
        if isinstance(atom, Variable) or uniform(atom):
            return atom
        return flat.captured.setdefault(id(atom.value), (Variable(atom.aval), atom.value))[0]

    for equation in flat.equations:
        equation.operands = [variable(o) for o in equation.operands]
    flat.outputs = [variable(o) for o in flat.outputs]


def uniform(constant: Constant) -> bool:
    """Whether a constant is one number, in one or more elements."""
    if not is_array_type(constant.aval) or isinstance(constant.value, jax.core.Tracer):
        return False
    if jax.dtypes.issubdtype(constant.aval.dtype, jax.dtypes.extended):
        return False
    array = np.asarray(constant.value).reshape(-1)
    return array.size <= 1 or array.tobytes() == array[:1].tobytes() * array.size
