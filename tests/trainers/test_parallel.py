"""Two gloo processes against one: DDP, FSDP2 through accelerate's own preparation, launchers, shipped configs."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from audiorl import exits
from audiorl.trainers import distributed
from audiorl.trainers.checkpoints import is_whole, write_list
from audiorl.trainers.distributed import check_parallelism
from tests.tiny_models import saved, tiny_whisper
from tests.trainers.launching import CONFIGS, launch_arguments, launched
from tests.trainers.pair_rows import config, largest_difference
from tests.trainers.run_parallel import DDP, FSDP
from tests.trainers.starting import ROOT, TORCHRUN, finish, free_port, start, write_pairs

SCRIPT = str(Path(__file__).with_name("run_parallel.py"))
STEPS = 4


def accelerate_launch(config_file: str) -> list[str]:
    flags = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", free_port()]
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config_file), *flags]


def found_by(kind: str, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp(kind) / "found.pt"
    finish(start([sys.executable, SCRIPT, str(out), kind]))
    return torch.load(out, weights_only=False)


@pytest.fixture(scope="module")
def ddp(tmp_path_factory) -> dict:
    return found_by("ddp", tmp_path_factory)


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory) -> dict:
    return found_by("fsdp", tmp_path_factory)


def assert_same_run(found: dict, expected: dict, tolerance: float = 1e-5) -> None:
    assert len(expected["log"]) == STEPS
    assert largest_difference(found["weights"], expected["weights"]) < tolerance
    for name in ("loss", "rewards/margins", "logps/chosen", "entropy"):
        logged = [[log[name] for log in run["log"]] for run in (found, expected)]
        assert logged[0] == pytest.approx(logged[1], rel=1e-4, abs=1e-5), name


# ---- DDP ----


@pytest.mark.slow
@pytest.mark.parametrize("case", DDP)
def test_ddp_trains_to_the_weights_of_one_process(ddp, case):
    """Seven rows, so that one process has none of its own in the last step of an epoch."""
    for process in ddp["two"]:
        assert process[case]["wrapper"] == "DistributedDataParallel"
        assert_same_run(process[case], ddp["one"][case])


@pytest.mark.slow
@pytest.mark.parametrize("case", DDP)
def test_ddp_needs_no_search_for_unused_parameters(ddp, case):
    """DDP itself stops a run that leaves out a parameter without the search."""
    assert [process[case]["searches"] for process in ddp["two"]] == [False, False]


@pytest.mark.slow
@pytest.mark.parametrize("case", DDP)
def test_only_the_first_process_writes(ddp, case):
    """Each had a folder of its own; a process's own random state is all that the second one adds."""
    first, second = (process[case]["files"] for process in ddp["two"])
    weights = "adapter_model.safetensors" if "adapter" in DDP[case] else "model.safetensors"
    assert {weights, f"checkpoint-2/{weights}", f"checkpoint-4/{weights}"} <= set(first)
    assert {Path(name).name for name in second} == {"rng_state_1.pth"}


# ---- FSDP2 ----


@pytest.mark.slow
@pytest.mark.parametrize("case", FSDP)
def test_fsdp_trains_to_the_weights_of_one_process(fsdp, case):
    for process in fsdp["two"]:
        assert process[case]["sharded"], "parameters are no DTensors: that was DDP"
        assert_same_run(process[case], fsdp["one"][case])


@pytest.mark.slow
@pytest.mark.parametrize("case", FSDP)
def test_fsdp_resumes_to_the_same_weights(fsdp, case):
    for process in fsdp["two"]:
        resumed = process[case]["resumed"]
        assert largest_difference(resumed["weights"], process[case]["weights"]) < 1e-6
        assert [log["loss"] for log in resumed["log"]] == pytest.approx([log["loss"] for log in process[case]["log"]])


@pytest.mark.slow
@pytest.mark.parametrize("case", FSDP)
def test_fsdp_saves_a_model_that_loads_whatever_its_checkpoints_are(fsdp, case):
    first = fsdp["two"][0][case]
    if FSDP[case].get("adapter"):
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(first["files"])
    elif "loaded" in first:
        assert largest_difference(first["loaded"], first["weights"]) == 0
    in_shards = any("pytorch_model_fsdp_0/" in name for name in first["files"])
    assert in_shards is (FSDP[case]["state"] == "SHARDED_STATE_DICT")
    assert not any(".incomplete" in name for name in first["files"])


@pytest.mark.slow
@pytest.mark.parametrize("case", FSDP)
def test_fsdp_refuses_to_decode_and_stops_everywhere_at_a_gradient_that_is_not_finite(fsdp, case):
    for process in fsdp["two"]:
        assert "cannot run on sharded weights" in process[case]["decode"]
        assert "A gradient is not finite" in process[case]["gradient"]


def stand_in(**state) -> SimpleNamespace:
    return SimpleNamespace(
        state=SimpleNamespace(**state), num_processes=2, device=torch.device("cpu"),
        distributed_type=DistributedType.MULTI_CPU,
    )  # fmt: skip


def zero_three(settings: dict) -> SimpleNamespace:
    return SimpleNamespace(zero_stage=3, deepspeed_config={"zero_optimization": {"stage": 3, **settings}})


def test_what_would_train_on_something_else_is_refused(monkeypatch):
    check_parallelism(stand_in())
    check_parallelism(stand_in(deepspeed_plugin=SimpleNamespace(zero_stage=2)))
    gathering = {"stage3_gather_16bit_weights_on_model_save": True}
    check_parallelism(stand_in(deepspeed_plugin=zero_three(gathering)))
    with pytest.raises(ValueError, match=r"ZeRO 3 would save no weights.*save_16bit_model.*zero3\.yaml"):
        check_parallelism(stand_in(deepspeed_plugin=zero_three({})))
    first = SimpleNamespace(fsdp_version=1, cpu_ram_efficient_loading=False)
    with pytest.raises(ValueError, match=r"version 1.*fsdp_version to 2"):
        check_parallelism(stand_in(fsdp_plugin=first))
    empty = SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=True)
    with pytest.raises(ValueError, match=r"only the first process.*cpu_ram_efficient_loading to false"):
        check_parallelism(stand_in(fsdp_plugin=empty))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"none for cpu and would train whole copies.*ddp\.yaml"):
        check_parallelism(stand_in())


def test_a_checkpoint_in_shards_counts_as_whole(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "rng_state_0.pth").write_bytes(b"random")
    write_list(tmp_path, {})
    assert not is_whole(tmp_path)
    (tmp_path / "pytorch_model_fsdp_0").mkdir()
    assert is_whole(tmp_path)


# ---- shipped configs ----


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_accelerate_reads_every_shipped_config(path):
    read = load_config_from_file(str(path))
    assert read.mixed_precision == "bf16" and not read.use_cpu
    shared = {"fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    expected = shared.get(path.stem, "MULTI_GPU")
    assert read.distributed_type == DistributedType(expected)
    arguments = launch_arguments(path)
    assert arguments.num_processes == read.num_processes == 8 * read.num_machines
    assert (arguments.use_fsdp, arguments.use_deepspeed, arguments.multi_gpu) == (
        expected == "FSDP", expected == "DEEPSPEED", expected == "MULTI_GPU",
    )  # fmt: skip


def test_several_machines_are_told_their_place():
    arguments = launch_arguments(
        CONFIGS / "multi_node.yaml", "--machine_rank", "1", "--main_process_ip", "192.0.2.7", "--num_processes", "4"
    )
    assert (arguments.num_machines, arguments.machine_rank, arguments.num_processes) == (2, 1, 4)
    assert (arguments.main_process_ip, arguments.main_process_port) == ("192.0.2.7", 29500)


def test_the_fsdp_config_becomes_the_plugin_the_trainers_take(monkeypatch):
    for name, value in launched(CONFIGS / "fsdp2.yaml").items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert not plugin.cpu_ram_efficient_loading and not plugin.activation_checkpointing
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    model, _ = tiny_whisper()
    plugin.set_auto_wrap_policy(model)
    layers = {type(model.model.encoder.layers[0]), type(model.model.decoder.layers[0])}
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == layers
    check_parallelism(stand_in(fsdp_plugin=plugin))


def test_the_deepspeed_config_is_filled_from_the_trainers_arguments(monkeypatch, tmp_path):
    pytest.importorskip("deepspeed")
    for name, value in launched(CONFIGS / "deepspeed_zero2.yaml").items():
        if name.startswith("ACCELERATE"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    args = config(tmp_path, gradient_accumulation_steps=4, max_grad_norm=0.5)
    plugin = args.deepspeed_plugin
    assert plugin.zero_stage == 2
    check_parallelism(stand_in(deepspeed_plugin=plugin))
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    filled = HfTrainerDeepSpeedConfig(plugin.hf_ds_config.config)
    filled.trainer_config_process(args)
    filled.trainer_config_finalize(args, tiny_whisper()[0], num_training_steps=10)
    assert filled.config["zero_optimization"]["stage"] == 2
    assert filled.config["gradient_accumulation_steps"] == 4
    assert filled.config["gradient_clipping"] == 0.5
    assert filled.config["train_micro_batch_size_per_gpu"] == args.per_device_train_batch_size


@pytest.mark.parametrize("stage", ["2", "3"])
def test_the_deepspeed_configs_ask_for_their_stage(stage):
    environment = launched(CONFIGS / f"deepspeed_zero{stage}.yaml")
    asked = {name.removeprefix("ACCELERATE_"): value for name, value in environment.items()}
    assert asked["USE_DEEPSPEED"] == "true" and asked["DEEPSPEED_ZERO_STAGE"] == stage
    assert asked["DEEPSPEED_ZERO3_INIT"] == "false"
    assert asked.get("DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "false") == ("true" if stage == "3" else "false")
    assert asked["GRADIENT_ACCUMULATION_STEPS"] == asked["GRADIENT_CLIPPING"] == "auto"
    assert asked["DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] == asked["DEEPSPEED_OFFLOAD_PARAM_DEVICE"] == "none"


# ---- launchers, as examples/accelerate_configs/README.md has them ----


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "two machines", "accelerate"])
def test_launched_processes_train_to_the_weights_of_one(ddp, tmp_path, launcher):
    out = tmp_path / "found.pt"
    if launcher == "torchrun":
        finish(start([*TORCHRUN, "--standalone", "--nproc_per_node=2", SCRIPT, str(out), "lora"]))
    elif launcher == "accelerate":
        finish(start([*accelerate_launch("ddp.yaml"), SCRIPT, str(out), "lora"]))
    else:
        place = ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
        machines = []
        for rank in range(2):
            flags = ["--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1", *place]
            machines.append(start([*TORCHRUN, *flags, SCRIPT, str(out), "lora"]))
        finish(*machines)
    found = torch.load(out, weights_only=False)
    assert found["world"] == 2
    assert_same_run(found, ddp["one"]["lora"])


@pytest.mark.parametrize(
    ("rank", "said", "slept"), [("0", "error: no", []), ("3", "error in process 3: no", [exits.OTHERS_WAIT])]
)
def test_a_process_that_fails_alone_says_so_after_the_first_had_its_say(monkeypatch, capsys, rank, said, slept):
    waits: list[float] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(exits.time, "sleep", waits.append)
    with pytest.raises(SystemExit):
        exits.stop("no")
    assert capsys.readouterr().err.strip() == said
    assert waits == slept


FAILING = """
import os, sys
from audiorl.exits import run
def main():
    if sys.argv[1] in ("all", os.environ["RANK"]):
        raise ValueError("spoilt")
    if sys.argv[1] == "bug":
        raise KeyError("mine")
    import time
    time.sleep(60)
run(main)
"""


def with_entry_points(folder: Path) -> str:
    """A PYTHONPATH with what pyproject.toml installs for launchers, whatever is installed here."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = folder / "audiorl-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: audiorl\nVersion: 0\n")
    lines = [
        line
        for group, names in declared.items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return os.pathsep.join([str(folder), str(ROOT)])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
@pytest.mark.parametrize(("who", "said"), [("all", "error: spoilt"), ("1", "error in process 1: spoilt")])
def test_under_a_launcher_an_error_is_said_once_and_nothing_else(tmp_path, who, said, launcher):
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    start_two = [*TORCHRUN, "--standalone", "--nproc_per_node=2"]
    if launcher == "accelerate":
        start_two = accelerate_launch("ddp.yaml")
    process = start([*start_two, str(failing), who], PYTHONPATH=with_entry_points(tmp_path))
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert printed.splitlines() == [said, "(AUDIORL_DEBUG=1 shows where)"]


WAITING = """
import os, sys, time
from audiorl.exits import interruptible, run
def wait():
    os.write(1, b"up\\n")  # in one piece: two processes write at once
    time.sleep(60)
def ours():
    with interruptible("start it again"):
        wait()
if sys.argv[1] == "ours":
    run(ours)
else:
    wait()
"""


def interrupted(tmp_path, launcher: str, whose: str) -> list[str]:
    """What two processes and their launcher say when Ctrl-C ends them, as a terminal sends it: to all of them."""
    waiting = tmp_path / "waiting.py"
    waiting.write_text(WAITING)
    start_two = [*TORCHRUN, "--standalone", "--nproc_per_node=2"]
    if launcher == "accelerate":
        start_two = accelerate_launch("ddp.yaml")
    process = start([*start_two, str(waiting), whose], new_session=True, PYTHONPATH=with_entry_points(tmp_path))
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["up\n"] * 2
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=120)[0].splitlines()


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)])
def test_under_a_launcher_ctrl_c_says_how_to_go_on_and_nothing_else(tmp_path, launcher):
    assert interrupted(tmp_path, launcher, "ours") == ["error: interrupted; start it again"]


@pytest.mark.slow
def test_ctrl_c_on_a_program_that_did_not_tell_is_reported_as_ever(tmp_path):
    said = "\n".join(interrupted(tmp_path, "torchrun", "another's"))
    assert "KeyboardInterrupt" in said and "SignalException" in said and "death signal" in said


@pytest.mark.slow
def test_what_our_program_did_not_tell_the_launcher_still_reports(tmp_path):
    failing = tmp_path / "failing.py"
    failing.write_text(FAILING)
    command = [*TORCHRUN, "--standalone", "--nproc_per_node=2", str(failing), "bug"]
    process = start(command, PYTHONPATH=with_entry_points(tmp_path))
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert "KeyError: 'mine'" in printed and "ChildFailedError" in printed and "failed (exitcode: 1)" in printed


# ---- several processes on a machine without a GPU ----


@pytest.fixture
def as_one_of_two(monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_device_joins_processes", lambda: False)


def test_several_processes_without_a_gpu_train_together_on_cpus_and_say_so(as_one_of_two, monkeypatch, caplog):
    assert distributed.falls_back_to_cpus(use_cpu=False)
    assert "2 processes train one model on CPUs, joined by gloo" in caplog.text and "--use_cpu true" in caplog.text
    caplog.clear()
    assert not distributed.falls_back_to_cpus(use_cpu=True) and not caplog.records  # asked for, nothing to say
    monkeypatch.setenv("RANK", "1")
    assert distributed.falls_back_to_cpus(use_cpu=False) and not caplog.records  # the first process says it
    monkeypatch.setattr(distributed, "_device_joins_processes", lambda: True)
    assert not distributed.falls_back_to_cpus(use_cpu=False)


@pytest.mark.parametrize("use_cpu", [False, True])
def test_fsdp_on_cpus_is_refused_before_anything_is_loaded(as_one_of_two, monkeypatch, use_cpu):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"FSDP was asked for.*ddp\.yaml --use_cpu true --mixed_precision no"):
        distributed.falls_back_to_cpus(use_cpu)


def asked_for(use_cpu: bool = False, deepspeed: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(use_cpu=use_cpu, deepspeed=deepspeed, ddp_backend=None)


@pytest.mark.parametrize("use_cpu", [False, True])
def test_deepspeed_on_cpus_is_told_device_and_backend(as_one_of_two, monkeypatch, use_cpu):
    monkeypatch.setattr(distributed.os, "environ", dict(os.environ))
    assert not distributed.join_deepspeed_on_cpus(asked_for(use_cpu))
    distributed.os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    args = asked_for(use_cpu)
    assert distributed.join_deepspeed_on_cpus(args)
    # accelerate has no DeepSpeed where use_cpu is on
    assert (args.use_cpu, args.ddp_backend) == (False, "gloo")
    assert distributed.os.environ["ACCELERATE_TORCH_DEVICE"] == distributed.os.environ["DS_ACCELERATOR"] == "cpu"


def test_what_deepspeed_cannot_do_on_cpus_is_refused_with_the_way_that_works(as_one_of_two, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    with pytest.raises(ValueError, match=r"not by --deepspeed.*accelerate launch --config_file \S+zero2\.yaml"):
        distributed.join_deepspeed_on_cpus(asked_for(deepspeed="zero.json"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(distributed, "_device_joins_processes", lambda: True)
    assert not distributed.join_deepspeed_on_cpus(asked_for())
    with pytest.raises(ValueError, match=r"--use_cpu and DeepSpeed.*CUDA_VISIBLE_DEVICES="):
        distributed.join_deepspeed_on_cpus(asked_for(use_cpu=True))


def test_processes_that_are_not_joined_are_refused(as_one_of_two):
    distributed.check_joined(2)
    with pytest.raises(ValueError, match=r"2 processes were started.*sees 1.*--use_cpu true"):
        distributed.check_joined(1)


def test_one_process_stays_as_it_is(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not distributed.falls_back_to_cpus(use_cpu=False)
    distributed.check_joined(1)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to train on")
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate launch"])
def test_the_readme_s_line_with_two_processes_is_one_run(tmp_path, launcher):
    """Nothing is added to it: no --use_cpu. Of the model's name and the number of processes alone others are taken."""
    saved(tiny_whisper(), tmp_path / "base")
    write_pairs(tmp_path / "pairs.jsonl")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (line,) = re.findall(
        rf"^{launcher} .*?--output_dir out$", (CONFIGS / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    words = line.replace("\\\n", " ").split()
    words = ["base" if word == "openai/whisper-small" else word.replace("=8", "=2") for word in words]
    words = ["2" if word == "8" else word for word in words]
    starts = {"torchrun": TORCHRUN, "accelerate launch": [sys.executable, "-m", "accelerate.commands.launch"]}
    length = len(launcher.split())
    said = finish(start([*starts[launcher], *words[length:]], cwd=tmp_path, PYTHONPATH=str(ROOT)))
    assert said.count("2 processes train one model on CPUs") == 1
    assert said.count("The tuned checkpoint lies in out") == 1
    assert "2 processes" in (tmp_path / "out" / "README.md").read_text()
    steps = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"]
    assert steps == 3 * 1  # three epochs of 16 pairs, 8 in each of two processes
