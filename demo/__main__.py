"""`python -m demo`: exit code 0 when every row was proved, 1 after a failure, 130 after Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time

from demo.flights import ROWS
from demo.screen import Screen
from demo.stage import Stage, fetch_jars
from demo.story import PATH, TO_KAFKA, TOPIC, Measured, play


async def _run(screen: Screen, *, keep: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Stage(screen) as stage:
        try:
            measured = await play(stage, screen)
        except Exception:
            screen.settle()
            print(stage.log_tails(), file=sys.stderr)
            raise
        screen.step("Measured on this machine")
        _tell(screen, measured)
        screen.step("Calls to try" if keep else "Calls to try (they answer while make demo KEEP=1 runs)")
        _calls(screen, stage)
        if keep:
            screen.say()
            screen.say("Everything stays up until Ctrl-C.")
            with contextlib.suppress(asyncio.CancelledError):  # this Ctrl-C is the proper end
                await asyncio.Event().wait()
            print()


def _tell(screen: Screen, measured: Measured) -> None:
    rate = measured.first_run_rows / max(measured.first_run, 0.001)
    micros = measured.cpu * 1e6 / max(measured.rows_sent, 1)
    screen.say(f"Kafka, exactly once, one split   {rate:,.0f} rows/s (the run before the stop, its start included)")
    screen.say(f"stop                             {measured.stop:.2f} s")
    screen.say(
        f"kill -9 until ready again        {measured.down:.1f} s, until rows moved again {measured.moving_again:.1f} s"
    )
    screen.say(f"longest stall of a reader        {measured.stalled:.1f} s (at most the transaction timeout, 60 s)")
    screen.say(
        f"service                          {micros:.1f} CPU µs a row, {measured.peak_rss / 2**20:.0f} MiB at its peak"
    )


def _calls(screen: Screen, stage: Stage) -> None:
    assert stage.service is not None
    assert stage.kafka is not None
    url, token = stage.service.url, stage.service.admin_token
    screen.say(f"A='Authorization: Bearer {token}'")
    screen.say(f'curl -H "$A" {url}/v1/jobs')
    screen.say(f'curl -H "$A" {url}/v1/jobs/{TO_KAFKA}/runs')
    screen.say(f'curl -H "$A" {url}/v1/jobs/{TO_KAFKA}/outputs')
    screen.say(f'curl -H "$A" -X POST "{url}/v1/jobs/{TO_KAFKA}/start?from=beginning&wait=60"')
    screen.say(f'curl -N -H "$A" -H "Accept: text/event-stream" {url}/v1/events')
    screen.say(f"kcat -b {stage.kafka.bootstrap} -t {TOPIC} -C -e -q -X isolation.level=read_committed | head -2")
    screen.say(f"zstdcat {stage.service.files(PATH)}/*.zst | head -2")


def main() -> int:
    """Run the demo; see the module's first line for what is returned."""
    keep = os.environ.get("KEEP", "0") not in {"", "0"} or "--keep" in sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen, began = Screen(), time.monotonic()
    screen.title(f"Rowferry: {ROWS:,} rows from Postgres to Kafka and to files, interrupted on purpose, each row once")
    try:
        screen.step("Servers, on free ports of 127.0.0.1")
        fetch_jars(screen)
        asyncio.run(_run(screen, keep=keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.settle()
        print("\nInterrupted. Everything that was started is gone.")
        return 130
    except Exception as error:  # noqa: BLE001  (whatever it is, the person wants the reason, not our stack)
        screen.settle()
        print(f"\nThe demo failed: {error}\nEverything that was started is gone.", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - began:.0f} s: every row once. Everything that was started is gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
