"""NumPyro's NUTS on the reference problem through diffrax: what a few draws cost, and what a fit would.

    python benchmarks/sampling_peer.py [ITERATIONS]          about 2 minutes

Nobody waits for the fit itself: a few iterations are run from a point of the posterior, and the time of a gradient
among them is multiplied by the gradients that a fit takes. That product is an extrapolation, and is called so.
"""

import sys
import time

import timing

CORE = timing.pin_to_one_core()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import peer_diffrax  # noqa: E402
import reference  # noqa: E402
from numpyro.infer import NUTS  # noqa: E402

# Step and depth are fixed, for so few iterations cannot adapt: an adapted step takes 127 gradients an iteration here
STEP, DEPTH = 0.02, 4  # 15 gradients an iteration
# Gradients that published runs of this problem took for four chains of 1,000 draws: plain NUTS, and the best recipe.
FITS = {"plain NUTS, 4 x (500 + 1000)": 824_000, "reparametrised, 4 x 1000": 100_000}


def main(iterations: int) -> None:
    problem = reference.load_problem()
    log_density = peer_diffrax.make_log_density(problem.known, reference.load_table(problem.known))
    sampler = NUTS(potential_fn=lambda x: -log_density(x), step_size=STEP, adapt_step_size=False,
                   adapt_mass_matrix=False, max_tree_depth=DEPTH)
    begin = jnp.asarray(reference.published_vector(problem.known["points"][0]))
    start = time.perf_counter()
    state = sampler.init(jax.random.key(0), num_warmup=0, init_params=begin, model_args=(), model_kwargs={})
    draw = jax.jit(lambda state: sampler.sample(state, (), {}))
    state = jax.block_until_ready(draw(state))
    compiled, gradients = time.perf_counter() - start, 0
    start = time.perf_counter()
    for _ in range(iterations):
        state = jax.block_until_ready(draw(state))
        gradients += int(state.num_steps)
    seconds = time.perf_counter() - start
    each = seconds / gradients
    rows = [[f"measured: {iterations} iterations", str(gradients), f"{seconds:.3g} s"],
            *[[f"extrapolated: {name}", f"{count}", f"{count * each / 3600:.3g} h on one core"]
              for name, count in FITS.items()]]
    timing.show(["NumPyro NUTS and diffrax Tsit5 1e-6", "gradients", "time"], rows)
    print(f"\n{1e3 * each:.3g} ms a gradient inside the sampler; compiling and the first draw took {compiled:.3g} s. "
          f"Core {CORE}. {timing.machine('jax', 'diffrax', 'numpyro')}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
