"""Layer maps: which teacher layer each student layer learns from or starts as."""

from __future__ import annotations

from orchestrator.config.objectives import LayerMapSpec
from orchestrator.errors import ConfigError


def layer_map(spec: LayerMapSpec, *, student_layers: int, teacher_layers: int, option: str = "map") -> dict[int, int]:
    """Write a layer map out: {student layer: teacher layer}, both counted from 1, ascending.

    With N teacher and M student layers: `uniform` g(m) = round(m·N/M), halves upwards, so g(M) = N (Jiao et al. 2020);
    `top` m + N − M; `bottom` m; `middle` the pair of the student's middle layer alone (Romero et al. 2015);
    `last` M → N alone; `skip` uniform without the last pair (Sun et al. 2019, PKD).

    Args:
        spec: the name of a map, or the map itself.
        student_layers: M.
        teacher_layers: N.
        option: the configuration key that errors name.

    Raises:
        ConfigError: the map leaves one of the two models, or is empty.
    """
    M, N = student_layers, teacher_layers
    students = range(1, M + 1)
    uniform = {m: (2 * m * N + M) // (2 * M) for m in students}
    match spec:
        case "uniform":
            pairs = uniform
        case "skip":
            pairs = {m: n for m, n in uniform.items() if m < M}
        case "top":
            pairs = {m: m + N - M for m in students}
        case "bottom":
            pairs = {m: m for m in students}
        case "middle":
            pairs = {(M + 1) // 2: uniform[(M + 1) // 2]}
        case "last":
            pairs = {M: N}
        case _:
            pairs = dict(sorted(spec.items()))
    name = spec if isinstance(spec, str) else "custom"
    if not pairs:
        raise ConfigError(f"{option}: the {name} map of a student with {M} layer(s) is empty; choose another map")
    for student, teacher in pairs.items():
        for whose, layer, depth in (("student", student, M), ("teacher", teacher, N)):
            if not 1 <= layer <= depth:
                raise ConfigError(
                    f"{option}: the {name} map pairs student layer {student} with teacher layer {teacher}, but the"
                    f" {whose}'s layers are 1 to {depth}; choose another map or another depth"
                )
    return pairs
