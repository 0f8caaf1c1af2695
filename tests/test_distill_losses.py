"""losses.py: closed forms, finite differences, and a dense reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillproof.distill import losses
from stillproof.distill.losses import SparseTargets, cross_entropy, find_loss, forward_kl
from stillproof.errors import ConfigError, MissingSignalError, TrainingError


def problem(n=7, h=5, v=11, k=3, seed=0):
    """Hidden states, head, labels, the teacher's full log-probabilities and their sparse form, in float64."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, h, generator=generator, dtype=torch.float64)
    head = torch.randn(v, h, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, v, (n,), generator=generator)
    teacher = (2 * torch.randn(n, v, generator=generator, dtype=torch.float64)).log_softmax(1)
    top, ids = teacher.topk(k, dim=1)
    targets = SparseTargets(ids, top.float(), (1 - top.exp().sum(1)).clamp_min(0).float())
    return hidden, head, labels, teacher, targets


def dense(hidden, head, labels, targets, ce_weight):
    """The same loss written out over the full matrix, for autograd to differentiate."""
    logq = (hidden @ head.T).log_softmax(1)
    ce = -logq.gather(1, labels[:, None]).mean()
    if targets is None:
        return ce
    p, p_tail = targets.top_logprobs.double().exp(), targets.tail_mass.double()
    top_logq = logq.gather(1, targets.top_ids)
    q_tail = 1 - top_logq.exp().sum(1)
    kl = (p * (p.log() - top_logq)).sum(1) + torch.special.xlogy(p_tail, p_tail) - p_tail * q_tail.log()
    return (1 - ce_weight) * kl.mean() + ce_weight * ce


@pytest.mark.parametrize("ce_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [1, 7, 2 * losses.CHUNK_POSITIONS + 5])
def test_forward_kl_and_its_gradients_equal_a_dense_reference(ce_weight, n):
    hidden, head, labels, _, targets = problem(n=n)
    ours = [hidden.float().requires_grad_(), head.float().requires_grad_()]
    reference = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    loss = forward_kl(*ours, labels, targets, ce_weight)
    expected = dense(*reference, labels, targets, ce_weight)
    (3 * loss).backward()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, wanted in zip(ours, reference, strict=True):
        torch.testing.assert_close(got.grad.double(), wanted.grad, rtol=1e-4, atol=1e-6)


def test_cross_entropy_equals_torchs_own():
    hidden, head, labels, _, _ = problem(n=300)
    ours = [hidden.float().requires_grad_(), head.float().requires_grad_()]
    reference = [hidden.float().requires_grad_(), head.float().requires_grad_()]
    cross_entropy(*ours, labels, None, 0.0).backward()
    torch.nn.functional.cross_entropy(reference[0] @ reference[1].T, labels).backward()
    for got, wanted in zip(ours, reference, strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-4, atol=1e-6)


def test_gradient_agrees_with_finite_differences():
    hidden, head, labels, _, targets = problem(n=2)
    leaf = hidden.float().requires_grad_()
    forward_kl(leaf, head.float(), labels, targets, 0.2).backward()
    step = 1e-6
    for row, column in ((0, 0), (1, 3)):
        up, down = hidden.clone(), hidden.clone()
        up[row, column] += step
        down[row, column] -= step
        slope = (dense(up, head, labels, targets, 0.2) - dense(down, head, labels, targets, 0.2)) / (2 * step)
        assert float(leaf.grad[row, column]) == pytest.approx(float(slope), rel=1e-3, abs=1e-5)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 11))
def test_bucketed_kl_lies_between_zero_and_the_full_kl(seed, k):
    hidden, head, labels, teacher, targets = problem(seed=seed, k=k)
    full = (teacher.exp() * (teacher - (hidden @ head.T).log_softmax(1))).sum(1).mean()
    bucketed = forward_kl(hidden.float(), head.float(), labels, targets, 0.0).item()
    assert -1e-5 <= bucketed <= float(full) + 1e-4


def test_kl_of_a_student_that_equals_the_teacher_is_zero_and_has_no_gradient():
    hidden, head, labels, _, _ = problem()
    teacher = (hidden @ head.T).log_softmax(1)
    top, ids = teacher.topk(4, dim=1)
    leaf = hidden.float().requires_grad_()
    loss = forward_kl(leaf, head.float(), labels, SparseTargets(ids, top.float(), (1 - top.exp().sum(1)).float()), 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(leaf.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("tail", [1e-4, 1e-6, 1e-8])
def test_the_tails_gradient_is_exact_for_a_sharp_student(tail):
    v = 50
    logits = torch.full((1, v), 0.0, dtype=torch.float64)
    logits[0, 1:] = torch.log(torch.tensor(tail / (v - 1), dtype=torch.float64))
    head, hidden = torch.eye(v), logits.float().requires_grad_()
    targets = SparseTargets(torch.tensor([[0]]), torch.log(torch.tensor([[0.999]])), torch.tensor([1e-3]))
    forward_kl(hidden, head, torch.tensor([0]), targets, 0.0).backward()
    q = logits.softmax(1)
    exact = (q[0, 1:] * (1 - 1e-3 / q[0, 1:].sum())).sum()
    assert hidden.grad[0, 1:].sum().item() == pytest.approx(exact.item(), rel=1e-3)


def test_a_student_that_is_certain_of_the_wrong_token_gets_a_finite_loss_and_gradient():
    hidden = torch.tensor([[200.0]], requires_grad=True)
    head = torch.tensor([[1.0], [0.0], [-1.0]])
    targets = SparseTargets(torch.tensor([[2]]), torch.tensor([[-0.01]]), torch.tensor([0.00995]))
    loss = forward_kl(hidden, head, torch.tensor([2]), targets, 0.0)
    loss.backward()
    assert 150 < loss.item() < 500
    assert torch.isfinite(hidden.grad).all()


def test_a_second_loss_does_not_overwrite_the_gradient_of_the_first():
    hidden, head, labels, _, targets = problem()
    alone, leaf = head.float().requires_grad_(), head.float().requires_grad_()
    forward_kl(hidden.float(), alone, labels, targets, 0.0).backward()
    first = forward_kl(hidden.float(), leaf, labels, targets, 0.0)
    second = forward_kl(2 * hidden.float(), leaf, labels, targets, 0.0)
    with pytest.raises(TrainingError, match="one loss at a time"):
        first.backward()
    del second
    assert alone.grad is not None


def test_forward_kl_without_targets_names_what_is_missing():
    hidden, head, labels, _, _ = problem()
    with pytest.raises(MissingSignalError, match="distill cache"):
        forward_kl(hidden.float(), head.float(), labels, None, 0.0)


def test_a_loss_is_found_by_name_or_by_import_path():
    assert find_loss("forward_kl") is forward_kl
    assert find_loss("stillproof.distill.losses:cross_entropy") is cross_entropy
    with pytest.raises(ConfigError, match="no loss named"):
        find_loss("reverse")
    with pytest.raises(ConfigError, match="cannot import"):
        find_loss("stillproof.distill.losses:nothing")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_with_the_step(value):
    with pytest.raises(TrainingError, match="step 12"):
        losses.check_finite(value, 12)
