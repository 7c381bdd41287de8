"""A training step with `OTReg` in it can be compiled: the graph breaks at the loss, the values stay.

In a process of its own: the shape checks that conftest.py puts around the package are not for graphs.
"""

import subprocess
import sys

STEP = """
import torch
from otreg import OTReg, SpeechTextPair

torch.manual_seed(0)
torch.set_num_threads(1)
adapter, states, table = torch.nn.Linear(6, 8), torch.randn(2, 9, 6), torch.randn(30, 8)
ids = torch.randint(29, (2, 4))

def step(states):
    speech = adapter(states).tanh()
    pair = SpeechTextPair(
        speech, table[ids], token_ids=ids, pad_embedding=table[29], embedding_table=table
    )
    return OTReg(epsilon=0.05)(pair).loss.mean() + speech.square().mean()

def gradients(function):
    adapter.zero_grad()
    loss = function(states)
    loss.backward()
    return loss.detach(), adapter.weight.grad.clone()

compiled = torch.compile(step, backend="aot_eager")
torch.testing.assert_close(gradients(compiled), gradients(step), atol=1e-5, rtol=1e-4)
"""


def test_a_compiled_training_step_is_the_eager_one() -> None:
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
