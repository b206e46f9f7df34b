"""The configuration files of the one-machine Slurm as templates: local_cluster.py fills them in.

Every line that is not plain Slurm was needed on Debian 12 (Slurm 22.05) without cgroups and systemd.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from genxai.errors import UsageError


@dataclass
class ClusterOptions:
    """What slurm.conf says of a cluster. Raises UsageError for a value that Slurm would not accept."""

    root: Path
    nodes: int = 4
    accounting: bool = False  # slurmdbd on a private mariadbd: sacct works, and with it submitit's job states
    _: KW_ONLY
    enforce_limits: bool = False  # with accounting: limits set by sacctmgr hold, as MaxSubmitJobs does on real clusters
    preempt_signal: bool = True  # preemption sends the job's --signal at once; stock Slurm (False) only SIGTERM
    grace_time: int = 10  # seconds between that signal and the kill
    cred_expire: int = 5  # a requeued job waits this long [s]; Slurm's default is 120, and below 5 means 120
    slurmd_timeout: int = 10  # silence [s] after which a node is down and its jobs are requeued (default 300)
    max_array_size: int = 1001  # Slurm's default; the index of an array task must be below it
    max_job_count: int = 10000  # Slurm's default; jobs that the controller keeps in memory
    first_job_id: int | None = None  # None: later than those of every earlier cluster; 1 on most new clusters
    cpus: int = 8  # a node's CPUs: what Slurm hands out, not what the machine has
    memory: int = 16000  # a node's memory [MB], likewise
    gpus: int = 4  # a node's fake GPUs: jobs get CUDA_VISIBLE_DEVICES, and nothing behind it

    def __post_init__(self) -> None:
        self.root = Path(os.path.abspath(self.root))
        for option, low, high in (("nodes", 1, 200), ("gpus", 1, 16), ("cred_expire", 5, 3600)):
            if not low <= getattr(self, option) <= high:
                raise UsageError(f"{option}: got {getattr(self, option)}, allowed: {low} to {high}")
        if self.enforce_limits and not self.accounting:
            raise UsageError("enforce_limits: limits are kept in the accounting database; give accounting=True as well")


SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.sock,cred_expire={cred_expire}
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
# a new cluster must not give out the job ids of an older one: submitit would find that one's results
FirstJobId={first_job_id}
# no cgroups, which need root: a job's memory is looked at once a second, and one over its limit is killed
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# listen to this machine only
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SwitchType=switch/none
MpiDefault=none
{accounting}
# nodes are as big as they say, whatever the machine has
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
ReturnToService=2
SlurmdTimeout={slurmd_timeout}
SlurmctldTimeout=30
KillWait=5
MinJobAge=300
MaxArraySize={max_array_size}
MaxJobCount={max_job_count}
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_yield_interval=100000
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{preempt_signal}
JobRequeue=1
# names that resolve everywhere; UNKNOWN until slurmd has registered, so that `idle` means ready
NodeName={node_names} NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs={cpus} \
RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=low  Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_time} \
MaxTime=INFINITE DefaultTime=10 State=UP
PartitionName=high Nodes=ALL Default=NO PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE DefaultTime=10 State=UP
"""

GRES_CONF = """\
AutoDetect=off
NodeName={node_names} Name=gpu File={root}/dev/nvidia[0-{last_gpu}]
"""

#: AccountingStoragePass is a munge socket: the connection to slurmdbd does not read AuthInfo
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass={root}/munge/munge.sock
AccountingStoragePort={database_port}
AccountingStoreFlags=job_comment
{enforce}"""
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/munge/munge.sock
DbdHost=localhost
DbdPort={database_port}
SlurmUser={user}
DebugLevel=info
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct_db
"""


def settings(options: ClusterOptions, user: str, first_port: int) -> dict[str, Any]:
    """What the templates need: the options by name, and what is new at every start.

    `first_port` is the first of `nodes` + 2 consecutive free ports.
    """
    nodes = options.nodes
    values = {option.name: getattr(options, option.name) for option in dataclasses.fields(ClusterOptions)} | {
        "user": user,
        "cluster": f"local{secrets.token_hex(4)}",
        "node_names": f"127.0.0.[1-{nodes}]",
        "first_port": first_port,
        "last_port": first_port + nodes - 1,
        "controller_port": first_port + nodes,
        "database_port": first_port + nodes + 1,
        "last_gpu": options.gpus - 1,
        "preempt_signal": "SlurmctldParameters=preempt_send_user_signal" if options.preempt_signal else "",
        "enforce": "AccountingStorageEnforce=limits,qos" if options.enforce_limits else "",
    }
    if options.first_job_id is None:  # starts are over 1/8 s apart; Slurm counts to 67 million
        values["first_job_id"] = 1 + int(8 * time.time()) % 60_000_000
    values["accounting"] = ACCOUNTING.format(**values) if options.accounting else NO_ACCOUNTING
    return values
