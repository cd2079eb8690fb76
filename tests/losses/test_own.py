"""A loss of one's own, by dotted path, entry point or as a function, with settings checked when a config is built."""

import json
import pickle

import pytest
import torch

from audiorl import DPOConfig, GRPOConfig, KTOConfig, ORPOConfig
from audiorl.flags import parse
from audiorl.losses import (
    CombinedObjective,
    LossSettingError,
    OddsRatioObjective,
    PairScores,
    PolicyBatch,
    PolicyObjective,
    UnpairedObjective,
    UnpairedScores,
    policy_counts,
    resolve_losses,
)
from audiorl.losses.settings import read_loss_settings
from audiorl.losses.unpaired import UnpairedLoss
from audiorl.trainers.fingerprint import settings_of
from tests.losses import own_losses

HERE = "tests.losses.own_losses"
PAIRS = PairScores(
    torch.tensor([[-2.0, -5.0], [-9.0, -3.0]], requires_grad=True),
    torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]),
    torch.tensor([[2, 5], [3, 1]]),
)
# means -1, -1 and -3, -3: -log sigmoid(-gamma) each
SIMPO = [torch.nn.functional.softplus(torch.tensor(0.5)).item()] * 2


@pytest.mark.parametrize(
    "named", [f"{HERE}.simpo", f"{HERE}:simpo", own_losses.simpo, own_losses.simpo_without_reference]
)
def test_a_preference_loss_by_path_function_and_entry_with_its_settings(named):
    objective = CombinedObjective([named, "sft"], [1.0, 0.5], loss_settings={"gamma": 0.5})
    own, sft = objective(PAIRS).terms
    assert own.loss.tolist() == pytest.approx(SIMPO)
    assert own.name == (named if isinstance(named, str) else "simpo") and sft.name == "sft"
    assert objective.uses_reference == (named is not own_losses.simpo_without_reference)


def test_the_fields_of_a_config_reach_it_too():
    (term,) = CombinedObjective(own_losses.with_beta, beta=0.25)(PAIRS).terms
    assert term.loss.tolist() == pytest.approx((-0.25 * PAIRS.margin).tolist())


def test_a_policy_loss_and_what_it_is_divided_by():
    torch.manual_seed(0)
    keep = torch.tensor([[[True, True, True], [True, False, False]]])
    logps = (-torch.rand(1, 2, 3)).requires_grad_()
    batch = PolicyBatch(logps, logps.detach(), keep, torch.tensor([[1.0, -0.5]]))
    by_token = -(logps * torch.tensor([[[1.0], [-0.5]]]) * keep)
    for named, wanted in (
        (own_losses.reinforce, by_token.sum() / 4),
        (f"{HERE}.reinforce_of_hypotheses", (by_token.sum(-1) / torch.tensor([3, 1])).mean()),
    ):
        found = PolicyObjective(named, loss_settings=["baseline=0"])(batch, policy_counts(keep)).loss
        torch.testing.assert_close(found, wanted)


def test_orpo_takes_another_loss_beside_the_likelihood():
    objective = OddsRatioObjective(0.2, 1.0, f"{HERE}.simpo", {"gamma": 0.5})
    nll, own = objective(PAIRS).terms
    assert nll.loss.tolist() == [2.0, 9.0] and own.loss.tolist() == pytest.approx(SIMPO) and own.weight == 0.2


def test_kto_takes_a_loss_of_single_transcripts():
    scores = UnpairedScores(torch.tensor([-1.0, -5.0]), torch.tensor([-2.0, -4.0]), torch.tensor([True, False]))
    objective = UnpairedObjective(f"{HERE}.thumbs", 0.5, loss_settings={"margin": 2})
    assert objective(scores, torch.tensor(0.5)).tolist() == [2 - 0.5 * 0.5, 2 - 0.5 * 1.5] and objective.uses_kl
    assert not UnpairedObjective(UnpairedLoss(own_losses.thumbs, uses_kl=False)).uses_kl
    with pytest.raises(LossSettingError, match=r"'marginn', which no loss .* Did you mean 'margin'"):
        UnpairedObjective(own_losses.thumbs, loss_settings={"marginn": 2})
    with pytest.raises(LossSettingError, match="failed on made-up scores"):
        UnpairedObjective(own_losses.simpo, loss_settings={"gamma": 1})


def test_an_installed_package_registers_one(tmp_path, monkeypatch):
    record = tmp_path / "ours-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[audiorl.losses]\nours = {HERE}:with_beta\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert CombinedObjective("ours", beta=2.0)(PAIRS).terms[0].name == "ours"
    with pytest.raises(LossSettingError, match="Did you mean 'ours'"):
        CombinedObjective("our")


REFUSED = [
    ({"loss_type": f"{HERE}.simpoo"}, "The module of the loss .*simpoo' has no such name"),
    ({"loss_type": "no_such_module_at_all.loss"}, "cannot be imported: No module named .*working folder"),
    ({"loss_type": "sigmoidd"}, "loss_type 'sigmoidd' does not exist. Did you mean 'sigmoid'"),
    ({"loss_type": f"{HERE}.not_a_loss"}, "is a int, which is not called with scores"),
    ({"loss_type": PairScores}, "loss_type 'PairScores' is a type"),
    ({"loss_type": lambda pairs: -pairs.margin}, "checkpoints cannot keep.*Define it with def at the top"),
    ({"loss_type": own_losses.simpo}, "wants gamma, which nothing sets"),
    ({"loss_type": own_losses.simpo, "loss_settings": {"gama": 1}}, "'gama', which no loss .* Did you mean 'gamma'"),
    (
        {"loss_type": own_losses.simpo, "loss_settings": {"gamma": "much"}},
        r"loss_settings\['gamma'\] has to be a finite",
    ),
    ({"loss_type": own_losses.simpo, "loss_settings": {"gamma": 1, "scale": True}}, "'scale'"),
    ({"loss_type": own_losses.with_beta, "loss_settings": {"beta": 1}}, "a setting of its own: beta=1, --beta 1"),
    ({"loss_type": "sigmoid", "loss_settings": {"gamma": 1}}, "no loss of .'sigmoid'. reads. They read: none"),
    ({"loss_type": own_losses.reduced}, r"returns \(3,\) for two clips; it has to return \(2,\), one value"),
    ({"loss_type": own_losses.detached}, "without a graph, so it would train nothing"),
    ({"loss_type": own_losses.failing}, "failed on made-up scores of two clips: AttributeError"),
    ({"loss_type": own_losses.with_beta, "f_divergence_type": "forward_kl"}, "with_beta does not use that difference"),
    ({"loss_type": [own_losses.with_beta, f"{HERE}.with_beta", own_losses.with_beta]}, "each named once"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_fault_is_told_before_anything_is_spent(arguments, message):
    with pytest.raises(LossSettingError, match=message) as caught:
        CombinedObjective(**arguments)
    assert len(str(caught.value)) < 500


def test_a_loss_of_the_batch_is_none_of_orpos():
    with pytest.raises(LossSettingError, match="value for the whole batch"):
        OddsRatioObjective(
            loss_type=own_losses.simpo_without_reference._replace(batch_wide=True), loss_settings={"gamma": 1}
        )


@pytest.mark.parametrize("text", ["gamma", "gamma=", "=1"])
def test_settings_are_written_as_name_and_value(text):
    assert read_loss_settings(["gamma=0.5", "on=true", "name=a=b"]) == {"gamma": 0.5, "on": True, "name": "a=b"}
    with pytest.raises(LossSettingError, match=r"--loss_settings gamma=0\.5 margin=2"):
        read_loss_settings([text])


CONFIGS = [
    (DPOConfig, own_losses.simpo, {"gamma": 0.5}, ["simpo"]),
    (ORPOConfig, own_losses.simpo, {"gamma": 0.5}, "simpo"),
    (GRPOConfig, own_losses.reinforce, {"baseline": 0.1}, "reinforce"),
    (KTOConfig, own_losses.thumbs, {"margin": 2}, "thumbs"),
]


@pytest.mark.parametrize(("config", "function", "settings", "name"), CONFIGS)
def test_a_config_with_a_function_is_told_kept_and_compared_by_its_name(tmp_path, config, function, settings, name):
    args = config(output_dir=str(tmp_path), loss_type=function, loss_settings=settings, use_cpu=True)
    assert json.loads(args.to_json_string())["loss_type"] == name
    assert pickle.loads(pickle.dumps(args)).loss_settings == settings
    assert settings_of(args)["settings"]["loss_type"] == name


@pytest.mark.parametrize(("config", "function", "settings", "name"), CONFIGS)
def test_on_the_command_line(tmp_path, config, function, settings, name):
    path = f"{HERE}.{function.__name__}"
    told = [f"{key}={value}" for key, value in settings.items()]
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--loss_type", path, "--loss_settings", *told]
    (args,) = parse([config], argv=flags)
    assert args.loss_settings == settings and args.loss_type in (path, [path])


def test_names_and_weights_are_resolved():
    assert resolve_losses([own_losses.with_beta, "sft"]) == (("with_beta", "sft"), (1.0, 1.0))
