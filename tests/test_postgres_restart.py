"""PostgreSQL is restarted at once (-m immediate) under load: nothing acknowledged is lost, nothing happens twice."""
import os
import random
import time

import psycopg

from api.store import Store
from tests.accounts import doubles, losses, opened, settled, unfinished
from tests.postgres import Postgres
from tests.served import Feed, Receiver, Served, order, until

RESTARTS = int(os.environ.get("WETREAD_POSTGRES_RESTARTS") or (5 if os.environ.get("CI") else 2))


def test_a_database_that_is_restarted_under_load_loses_and_doubles_nothing(starter, tmp_path):
    rng, server, receiver = random.Random(5), Postgres(), Receiver()
    try:
        with psycopg.connect(f"host={server.folder} user=wetread dbname=postgres", autocommit=True) as admin:
            admin.execute("CREATE DATABASE wetread")
        Store.open(server.address("wetread"), tmp_path / "home").close()
        served = Served(starter, tmp_path / "home", db=server.address("wetread"), outbox=receiver.port).start()
        feeds = [Feed(served.mllp, [order(f"{line}{i:05}") for i in range(20_000)], pause_s=0.02) for line in "123"]
        for feed in feeds:
            feed.start()
        for _ in range(RESTARTS):
            time.sleep(rng.uniform(0.5, 2))
            server.restart_at_once()
        time.sleep(1)
        for feed in feeds:
            feed.end()
        until(served.ready, 10)
        acknowledged = {id: raw for feed in feeds for id, raw in feed.acknowledged.items()}
        store = opened(served)
        until(lambda: settled(store))
        print(f"{RESTARTS} restarts: {len(acknowledged)} acknowledged, {len(losses(store, acknowledged))} lost, {len(doubles(store))} doubled")
        assert losses(store, acknowledged) == [] == doubles(store) and unfinished(store, acknowledged) == []
        assert store.jobs("dead") == [] and len(acknowledged) > 5 * RESTARTS and served.alive
        store.close()
        served.kill()
    finally:
        receiver.close()
        server.close()
