"""The configuration files of the one-machine Slurm as templates: local_cluster.py fills them in.

Every line that is not plain Slurm was needed on Debian 12 (Slurm 22.05) without cgroups and systemd.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

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
# no cgroups: needs no root, but memory limits are not enforced
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
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
AccountingStoreFlags=job_comment"""
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


def settings(options: Mapping[str, Any], user: str, first_port: int) -> dict[str, Any]:
    """What the templates need: LocalCluster's options by name, and what is new at every start.

    `first_port` is the first of `nodes` + 2 consecutive free ports.
    """
    nodes = options["nodes"]
    values = dict(options) | {
        "user": user,
        "cluster": f"local{secrets.token_hex(4)}",
        "node_names": f"127.0.0.[1-{nodes}]",
        "first_port": first_port,
        "last_port": first_port + nodes - 1,
        "controller_port": first_port + nodes,
        "database_port": first_port + nodes + 1,
        "last_gpu": options["gpus"] - 1,
        "first_job_id": 1 + int(8 * time.time()) % 60_000_000,  # starts are over 1/8 s apart; at most 67 million
        "preempt_signal": "SlurmctldParameters=preempt_send_user_signal" if options["preempt_signal"] else "",
    }
    values["accounting"] = ACCOUNTING.format(**values) if options["accounting"] else NO_ACCOUNTING
    return values
