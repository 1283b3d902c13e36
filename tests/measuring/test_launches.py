import pytest

from metajax.measuring.launches import num_launches

PROGRAM = """
HloModule jit_f, is_scheduled=true

%fused (a: f32[4]) -> f32[4] {
  ROOT %b = f32[4]{0} add(%a, %a)
}

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %c = f32[4]{0} fusion(%p), kind=kLoop, calls=%fused
  %d = (f32[4]{0}, s8[16]{0}) custom-call(%c), custom_call_target="__cublas$gemm"
  ROOT %t = (s32[], f32[4]{0}) tuple(%c, %d)
}

%outer.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %e = f32[4]{0} get-tuple-element(%p), index=1
  %f = f32[4]{0} copy(%e)
  ROOT %w = (s32[], f32[4]{0}) while(%f), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
}

%small (p: f32[4]) -> f32[4] {
  ROOT %g = f32[4]{0} bitcast(%p)
}

ENTRY %main.2 (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %h = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  %i = (s32[], f32[4]{0}) while(%h), condition=%c, body=%outer.1, backend_config={"known_trip_count":{"n":"3"}}
  %j = f32[4]{0} conditional(%i), branch_computations={%small, %inner}
  %k = f32[4]{0} call(%j), to_apply=%inner
  ROOT %l = (s32[], f32[4]{0}) while(%k), condition=%c, body=%inner
}
"""


def test_kernels_are_counted_as_often_as_they_run():
    """One fusion; 3 x (a copy and 5 x 2); the larger branch; a call; a loop whose trips are not known."""
    assert num_launches(PROGRAM) == 1 + 3 * (1 + 5 * 2) + 2 + 2 + 2


@pytest.mark.parametrize(("old", "new", "more"), [("tuple(%c", "sort(%c", 18), ("{%small, %inner}", "{%small}", -2)])
def test_another_kernel_in_a_loop_or_branch_counts(old, new, more):
    assert num_launches(PROGRAM.replace(old, new)) == num_launches(PROGRAM) + more
