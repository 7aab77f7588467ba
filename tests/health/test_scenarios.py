"""What a program does and what is made of it: one script and one timeline a scenario, on virtual time, with the default
periods (a question every 10 s, a canary after 300 s of idleness, 120 s of grace for a stall).

The notation is ``script``'s: a script's keys are ``Facts``; a timeline's row is a change of state or health, at a time
or within a range. Where a range ends is what was promised: a stopped process or a refusal is seen within one period, a
hang within the stall grace + the canary's time-out + one period (160 s).
"""

from __future__ import annotations

import time
from functools import cache

import pytest
from _pytest.mark import ParameterSet

from .script import Played, Scenario, differences, perform, shown

SHARDS = "says=Loading_safetensors_checkpoint_shards:_10%_Completed_|_{}/8"
ALL_HANG = "health=hang models=hang metrics=hang canary=hang"

S = Scenario
# fmt: off
SCENARIOS: tuple[Scenario, ...] = (
    # Starting: time 0 is the spawn -----------------------------------------------------------------------------
    S("a start", "", """
        0            STARTING  starting   asked to start
        20           RUNNING   ready      ready: answers
        """, born=True),
    S("a slow start with progress: shards every 5 minutes, no CPU in between", "0 up=no cpu=off\n" + "\n".join(
        f"{300 * (n + 1)} " + SHARDS.format(n) for n in range(9)) + "\n2800 up=yes", """
        0            STARTING  starting   asked to start
        2800         RUNNING   ready      ready: answers
        """, born=True, until=2900),
    S("a slow start without any progress", "0 up=no cpu=off", """
        0            STARTING  starting   asked to start
        600          STOPPING  unhealthy  terminating: start without any progress for 600 s
        601          BACKOFF   starting   without any progress
        606          STARTING  starting   without any progress
        """, born=True, until=620),
    S("a start that stalls after two of eight shards", f"0 up=no cpu=off\n30 {SHARDS.format(2)}", """
        0            STARTING  starting   asked to start
        630          STOPPING  unhealthy  terminating: start without any progress for 600 s (last: loading weights 2/8)
        631          BACKOFF   starting   without any progress
        636          STARTING  starting   without any progress
        """, born=True, until=640),
    S("a start over its budget: it burns CPU and never answers", "0 up=no", """
        0            STARTING  starting   asked to start
        1800         STOPPING  unhealthy  terminating: not ready within 1800 s: liveness: 127.0.0.1:8000 refuses
        1801         BACKOFF   starting   not ready within
        1806         STARTING  starting   not ready within
        """, born=True, until=1820),
    S("a budget extended by loading, and used up all the same", f"0 up=no\n1700 {SHARDS.format(1)}", """
        0            STARTING  starting   asked to start
        2300         STOPPING  unhealthy  terminating: not ready within 1800 s (last: loading weights 1/8)
        2301         BACKOFF   starting   not ready within
        2306         STARTING  starting   not ready within
        """, born=True, until=2320),
    S("not ready before a canary was answered", "0 canary=hang\n100 canary=ok", """
        0            STARTING  starting   asked to start
        100..131     RUNNING   ready      ready: answers
        """, born=True),
    S("the first canary compiles for 25 s", "0 canary=25s\n50 canary=ok", """
        0            STARTING  starting   asked to start
        45           RUNNING   ready      ready: answers
        """, born=True),
    S("the first canaries fail: never ready", "0 canary=500", """
        0            STARTING  starting   asked to start
        300          STOPPING  unhealthy  terminating: not ready within 300 s: canary: fails (500
        301          BACKOFF   starting   canary: fails (500
        306          STARTING  starting   canary: fails (500
        """, born=True, until=310, health={"startup_budget": 300.0}),
    S("born without a chat template: named, not restarted", "0 canary=400", """
        0            STARTING  starting   asked to start
        20           RUNNING   degraded   wrong canary: canary: is refused (400: As of transformers v4.44, default chat
        """, born=True, until=2000),
    S("born with a wrong name: named, not restarted", "0 models=wrong canary=404", """
        0            STARTING  starting   asked to start
        20           RUNNING   degraded   wrong catalogue: catalogue: /v1/models lists another, not glm
        """, born=True, until=2000),
    S("exits while it starts", "10 leader=exit1", """
        0            STARTING  starting   asked to start
        10           STOPPING  unhealthy  sweeping: exited with status 1 before it was ready
        10           BACKOFF   starting   exited with status 1
        15           STARTING  starting   exited with status 1
        35           RUNNING   ready      ready: answers
        """, born=True),
    S("exits with status 0 while it starts: that is no success", "10 leader=exit0", """
        0            STARTING  starting   asked to start
        10           STOPPING  unhealthy  sweeping: exited with status 0 before it was ready
        10           BACKOFF   starting   exited with status 0
        15           STARTING  starting   exited with status 0
        35           RUNNING   ready      ready: answers
        """, born=True),
    S("the clock jumps by an hour while it starts", "0 up=no\n10 clock=3600\n3640 up=yes", """
        0            STARTING  starting   asked to start
        3640         RUNNING   ready      ready: answers
        """, born=True, until=3700),

    # Idle: time 0 is ready from here on ------------------------------------------------------------------------
    S("nothing happens, and the counters stand still", "", "", until=2000, canaries=(7, 7)),
    S("the clock jumps by an hour", "105 clock=3600", "", until=4000),
    S("health flaps below its threshold", """
        12 health=500
        35 health=200
        45 health=hang
        65 health=200
        105 health=garbage
        115 health=200
        """, "", canaries=(3, 8)),
    S("health fails three times in a row", "12 health=500", """
        40           STOPPING  unhealthy  terminating: liveness: /health answers 500 (3 times in a row)
        41           STARTING  starting   answers 500
        61           RUNNING   ready      ready: answers
        """),
    S("the engine says that it is dead", "12 health=503", """
        12..22       STOPPING  unhealthy  killing: liveness: /health says that the engine is dead (503)
        12..22       STARTING  starting   dead (503)
        32..42       RUNNING   ready      ready: answers
        """),
    S("nobody listens any more", "12 health=refused", """
        12..22       STOPPING  unhealthy  killing: liveness: 127.0.0.1:8000 refuses connections
        12..22       STARTING  starting   refuses connections
        32..42       RUNNING   ready      ready: answers
        """),
    S("the API server dies", "12 leader=9", """
        12           STOPPING  unhealthy  sweeping: was killed by signal 9
        12           STARTING  starting   was killed by signal 9
        32           RUNNING   ready      ready: answers
        """),
    S("the Worker dies", "12 member=Worker", """
        12           STOPPING  unhealthy  killing: its process VLLM::Worker (pid 7) died
        12           STARTING  starting   its process VLLM::Worker (pid 7) died
        32           RUNNING   ready      ready: answers
        """),
    S("200 first, then every question hangs", f"12 {ALL_HANG}", """
        40..82       RUNNING   unhealthy  no answer
        132..172     STOPPING  unhealthy  killing: no progress for 120 s while the canary gets no answer
        132..172     STARTING  starting   no progress
        152..192     RUNNING   ready      ready: answers
        """),
    S("200 for ever, but nobody gets a token", "12 engine=frozen", """
        300..332     RUNNING   unhealthy  standing: no progress for 30 s while the canary gets no answer
        412..460     STOPPING  unhealthy  killing: no progress for 120 s while the canary gets no answer
        412..460     STARTING  starting   no progress
        432..480     RUNNING   ready      ready: answers
        """, until=500),
    S("the Worker is stopped while idle", "12 worker=stopped", """
        12..22       RUNNING   unhealthy  frozen: VLLM::Worker (pid 7) is stopped
        132..172     STOPPING  unhealthy  killing: no progress for 120 s while
        132..172     STARTING  starting   no progress
        152..192     RUNNING   ready      ready: answers
        """, canaries=(4, 7)),
    S("the Worker is stopped and goes on within the grace", "12 worker=stopped\n75 worker=runs", """
        12..22       RUNNING   unhealthy  frozen: VLLM::Worker (pid 7) is stopped
        76..115      RUNNING   ready      fine: answers
        """),
    S("the Worker hangs in the kernel", "12 worker=D", """
        22..32       RUNNING   unhealthy  frozen: VLLM::Worker (pid 7) hangs in the kernel
        132..172     STOPPING  unhealthy  killing: no progress for 120 s while
        132..172     STARTING  starting   no progress
        152..192     RUNNING   ready      ready: answers
        """),
    S("the Worker is in the kernel for a moment", "15 worker=D\n25 worker=runs", ""),
    S("the API server is stopped while idle", f"12 worker=stopped {ALL_HANG}", """
        12..42       RUNNING   unhealthy  frozen: VLLM::Worker (pid 7) is stopped
        132..172     STOPPING  unhealthy  killing: no progress for 120 s while
        132..172     STARTING  starting   no progress
        152..192     RUNNING   ready      ready: answers
        """),

    # The catalogue -----------------------------------------------------------------------------------------------
    S("a wrong catalogue, for ever: named, not restarted", "12 models=wrong", """
        12..22       RUNNING   degraded   wrong catalogue: catalogue: /v1/models lists another, not glm
        """, until=3000, canaries=(9, 11)),
    S("a wrong catalogue is named under load as well", "5 load=4+0@100\n32 models=wrong\n95 models=right", """
        10           RUNNING   busy       working: 4 running
        32..42       RUNNING   degraded   working on the wrong: catalogue: /v1/models lists another, not glm; 4 running
        95..105      RUNNING   busy       working: 4 running
        """, canaries=(1, 1)),
    S("a wrong catalogue flaps, and recovers", "12 models=wrong\n22 models=right\n32 models=wrong\n52 models=right", """
        12..22       RUNNING   degraded   wrong catalogue
        22..32       RUNNING   ready      fine: answers
        32..42       RUNNING   degraded   wrong catalogue
        52..62       RUNNING   ready      fine: answers
        """),
    S("the catalogue fails twice", "12 models=500\n35 models=right", "", canaries=(2, 5)),
    S("the catalogue fails three times in a row", "12 models=garbage", """
        40           STOPPING  unhealthy  terminating: catalogue: /v1/models answers something that is not a list of
        41           STARTING  starting   not a list of models
        61           RUNNING   ready      ready: answers
        """),
    S("only the catalogue hangs; canaries are answered", "12 models=hang\n195 models=right", """
        40..60       RUNNING   unhealthy  catalogue mute: catalogue: no answer from /v1/models within 10 s (3 times in a
        195..215     RUNNING   ready      fine: answers
        """, canaries=(10, 30)),
    S("only the API's loop is slow; canaries are answered", "12 health=hang\n195 health=200", """
        40..60       RUNNING   unhealthy  mute: liveness: no answer from /health within 10 s (3 times in a row)
        195..215     RUNNING   ready      fine: answers
        """, canaries=(10, 30)),
    S("a wrong catalogue does not hide a stopped Worker", "12 models=wrong\n35 worker=stopped", """
        12..22       RUNNING   degraded   wrong catalogue
        35..45       RUNNING   unhealthy  frozen: VLLM::Worker (pid 7) is stopped
        155..195     STOPPING  unhealthy  killing: no progress for 120 s while
        155..195     STARTING  starting   no progress
        175..215     RUNNING   ready      ready: answers
        """),

    # The canary --------------------------------------------------------------------------------------------------
    S("a canary is slow, but it is answered (no metrics)", "0 metrics=404\n290 canary=25s", "", until=900),
    S("a canary is so slow that readings see it on its way", "290 canary=25s", """
        300..330     RUNNING   busy       1 running
        325..335     RUNNING   ready      fine: answers
        """, until=500),
    S("a canary is refused: named, not restarted, mended", "12 canary=400\n850 canary=ok", """
        300          RUNNING   degraded   wrong answer: canary: is refused (400: As of transformers v4.44, default chat
        900          RUNNING   ready      fine: answers
        """, until=1000),
    S("a canary fails once", "290 canary=500\n305 canary=ok", """
        300          RUNNING   unhealthy  canary shaky: canary: fails (500
        310          RUNNING   ready      fine: answers
        """, until=500),
    S("canaries fail three times in a row when idle", "12 canary=500", """
        300          RUNNING   unhealthy  canary shaky: canary: fails (500
        320          STOPPING  unhealthy  terminating: canary: fails (500: it fails) (3 times in a row)
        321          STARTING  starting   canary: fails (500
        341          RUNNING   ready      ready: answers
        """, until=350),
    S("canaries get an empty answer", "12 canary=empty", """
        300          RUNNING   unhealthy  canary shaky: canary: gets an empty answer
        320          STOPPING  unhealthy  terminating: canary: gets an empty answer (3 times in a row)
        321          STARTING  starting   gets an empty answer
        341          RUNNING   ready      ready: answers
        """, until=350),
    S("canaries fail while others are served", "12 canary=500\n305 load=8+0@200", """
        300          RUNNING   unhealthy  canary shaky: canary: fails (500
        305..320     RUNNING   degraded   working, but: canary: fails (500: it fails); 8 running, 0 waiting
        """, until=800),
    S("canaries fail while others' short requests are served", "12 canary=500\n285 load=0+0@200", """
        290          RUNNING   busy       working: 0 running, 0 waiting, 2 answered since the last look
        300          RUNNING   degraded   working, but: canary: fails (500: it fails); 0 running, 0 waiting, 5 answered
        """, until=600),
    S("canaries fail while another's request is served now and then", "12 canary=500\n285 load=0+0@1", """
        290          RUNNING   busy       working: 0 running, 0 waiting
        300          RUNNING   degraded   working, but: canary: fails (500
        """, until=600),
    S("no canary by configuration", "", "", canary=False, until=2000, canaries=(0, 0)),

    # Work --------------------------------------------------------------------------------------------------------
    S("work comes and goes", "5 load=4+0@100\n95 load=none", """
        10           RUNNING   busy       working: 4 running, 0 waiting
        100..110     RUNNING   ready      fine: answers
        """),
    S("a first request arrives just before a reading", "9.9 load=1+0@0\n12 load=1+0@50\n95 load=none", """
        10..20       RUNNING   busy       1 running
        100..110     RUNNING   ready      fine: answers
        """),
    S("a long prefill: no tokens, but iterations", "5 load=1+0@0,2\n295 load=none", """
        10           RUNNING   busy       working: 1 running, 0 waiting
        300..310     RUNNING   ready      fine: answers
        """, until=350),
    S("a prefill that shows nothing for 100 s", """
        15  load=1+0@50
        25  load=1+0@0 canary=hang
        125 load=1+0@50 canary=ok
        """, """
        20           RUNNING   busy       working: 1 running
        40..82       RUNNING   unhealthy  standing: no progress
        125..135     RUNNING   busy       working: 1 running
        """),
    S("an hour of saturation: every probe times out while tokens advance",
      "5 load=64+32@900 health=hang models=hang canary=hang", """
        10           RUNNING   busy       working: 64 running, 32 waiting
        """, until=3605, canaries=(1, 1)),
    S("ready again after saturation", """
        5   load=64+32@900 health=hang models=hang canary=hang
        605 load=none health=200 models=right canary=ok
        """, """
        10           RUNNING   busy       working: 64 running, 32 waiting
        605..635     RUNNING   ready      fine: answers
        """, until=1000),
    S("saturation where /metrics times out now and then", """
        5   load=64+32@900 health=hang models=hang canary=hang
        305 metrics=hang
        335 metrics=200
        """, """
        10           RUNNING   busy       working: 64 running, 32 waiting
        """, until=3000),
    S("the counters start anew", "5 load=4+0@100\n55 counts=0", """
        10           RUNNING   busy       working: 4 running, 0 waiting
        60           RUNNING   ready      fine: answers
        70           RUNNING   busy       working: 4 running, 0 waiting
        """),
    S("the clock jumps by an hour while it works", "5 load=4+0@100\n55 clock=3600", """
        10           RUNNING   busy       working: 4 running, 0 waiting
        """, until=4000),
    S("the clock jumps by an hour while a request stands for a while", """
        5    load=1+0@50
        25   load=1+0@0 canary=hang
        85   clock=3600
        3695 load=1+0@50 canary=ok
        """, """
        10           RUNNING   busy       working
        40..82       RUNNING   unhealthy  standing: no progress
        3695..3715   RUNNING   busy       waiting
        """, until=4000),
    S("the engine hangs with requests in flight", "5 load=4+2@100\n55 engine=frozen", """
        10           RUNNING   busy       working: 4 running, 2 waiting
        65..107      RUNNING   unhealthy  standing: no progress for
        175..215     STOPPING  unhealthy  killing: no progress for 120 s while
        175..215     STARTING  starting   no progress
        195..235     RUNNING   ready      ready: answers
        """),
    S("the Worker is stopped with requests in flight", "5 load=4+2@100\n55 worker=stopped", """
        10           RUNNING   busy       working: 4 running, 2 waiting
        55..75       RUNNING   unhealthy  frozen: VLLM::Worker (pid 7) is stopped
        175..215     STOPPING  unhealthy  killing: no progress for 120 s while
        175..215     STARTING  starting   no progress
        195..235     RUNNING   ready      ready: answers
        """),
    S("the API server is stopped with requests in flight", f"5 load=4+2@100\n55 worker=stopped {ALL_HANG}", """
        10           RUNNING   busy       working: 4 running, 2 waiting
        55..125      RUNNING   unhealthy  frozen: VLLM::Worker (pid 7) is stopped
        175..215     STOPPING  unhealthy  killing: no progress for 120 s while
        175..215     STARTING  starting   no progress
        195..235     RUNNING   ready      ready: answers
        """),
    S("requests hang behind an API that refuses canaries by itself", """
        0   canary=400
        305 load=4+0@100
        355 engine=frozen
        """, """
        300          RUNNING   degraded   wrong answer: canary: is refused (400
        365..407     RUNNING   unhealthy  standing: no progress
        475..515     STOPPING  unhealthy  killing: no progress for 120 s while
        475..515     STARTING  starting   no progress
        495..535     RUNNING   ready      ready: answers
        """, until=600),
    S("the counters stand still while requests are pending, and canaries are answered",
      "5 load=2+0@100\n15 load=2+0@0", """
        10           RUNNING   busy       working: 2 running
        """, until=300),
    S("canary off: a hang with requests in flight", "5 load=4+0@100\n55 engine=frozen", """
        10           RUNNING   busy       working: 4 running, 0 waiting
        65..107      RUNNING   unhealthy  standing: no progress
        175..215     STOPPING  unhealthy  killing: no progress for 120 s while 4 running and 0 waiting
        175..215     STARTING  starting   no progress
        195..235     RUNNING   ready      ready: answers
        """, canary=False),
    S("canary off: every question hangs", f"12 {ALL_HANG}", """
        40..215      STOPPING  unhealthy  no answer from
        40..215      STARTING  starting   no answer
        60..235      RUNNING   ready      ready: answers
        """, canary=False, until=2000),

    # Without metrics ---------------------------------------------------------------------------------------------
    S("no metrics (404)", "0 metrics=404", "", until=2000),
    S("no metrics (a page without the series)", "0 metrics=empty", "", until=2000),
    S("no metrics: every question hangs", f"0 metrics=404\n12 {ALL_HANG} metrics=404", """
        40..82       RUNNING   unhealthy  no answer
        132..172     STOPPING  unhealthy  killing: no progress for 120 s while the canary gets no answer
        132..172     STARTING  starting   no progress
        152..192     RUNNING   ready      ready: answers
        """),
    S("no metrics, no canary: three silences", "0 metrics=404\n12 health=hang", """
        40..60       STOPPING  unhealthy  terminating: liveness: no answer from /health within 10 s (3 times in a row)
        41..61       STARTING  starting   no answer
        61..81       RUNNING   ready      ready: answers
        """, canary=False),
    S("no metrics, no canary: the catalogue is silent three times", "0 metrics=404\n12 models=hang", """
        40..60       STOPPING  unhealthy  terminating: catalogue: no answer from /v1/models within 10 s (3 times
        41..61       STARTING  starting   no answer
        61..81       RUNNING   ready      ready: answers
        """, canary=False),

    # The gateway -------------------------------------------------------------------------------------------------
    S("gateway: silent three times", "12 health=hang models=hang", """
        40..52       STOPPING  unhealthy  within 10 s (3 times in a row)
        41..53       STARTING  starting   no answer
        61..73       RUNNING   ready      ready: answers
        """, gateway=True),
    S("gateway: only its loop is silent, twice", "12 health=hang\n32 health=200", "", gateway=True),
    S("gateway: draining for ever", "12 health=503", """
        40           STOPPING  unhealthy  terminating: liveness: /health/liveliness answers 503 (3 times in a row)
        41           STARTING  starting   answers 503
        61           RUNNING   ready      ready: answers
        """, gateway=True),
    S("gateway: dead", "12 health=refused", """
        12..22       STOPPING  unhealthy  killing: liveness:
        12..22       STARTING  starting   refuses
        32..42       RUNNING   ready      ready: answers
        """, gateway=True),
    S("gateway: a group is missing: named, not restarted", "12 models=wrong\n1995 models=right", """
        12..22       RUNNING   degraded   wrong catalogue: catalogue: /model_group/info: glm is missing
        1995..2005   RUNNING   ready      fine: answers
        """, gateway=True, until=2100),
    S("gateway: a wrong key on a route: named, not restarted", "12 route=401\n1995 route=ok", """
        12           RUNNING   degraded   wrong route: route glm: does not take the key that it was given (401
        1995         RUNNING   ready      fine: answers
        """, gateway=True, until=2100),
    S("gateway: the engine behind it is down: it is left alone", "12 route=500\n42 route=hang\n342 route=ok", """
        12           RUNNING   degraded   wrong route: route glm: fails (500
        342          RUNNING   ready      fine: answers
        """, gateway=True, until=1000),
)
# fmt: on


@cache
def played(index: int) -> tuple[Played, float]:
    """A scenario, played once for all tests, and how long that took (CPU seconds)."""
    began = time.process_time()
    return perform(SCENARIOS[index]), time.process_time() - began


def row(index: int, one: Scenario) -> ParameterSet:
    """A scenario as pytest wants it."""
    return pytest.param(index, id=one.name, marks=[pytest.mark.xfail(strict=True, reason=one.bug)] if one.bug else [])


@pytest.mark.parametrize("index", [row(index, one) for index, one in enumerate(SCENARIOS)])
def test_timeline(index: int) -> None:
    it, _ = played(index)
    timeline = "\n".join(shown(row) for row in it.timeline[:40])
    assert not differences(SCENARIOS[index], it), timeline
