import time, psycopg
from tests.eventspine.conftest import make_tables
from tests.conftest import *
from tests.eventspine.conftest import *
def test_t(new_notes, new_database):
    for _ in range(4):
        t=time.time(); u=new_notes(); print("create", time.time()-t)
    for _ in range(4):
        t=time.time()
        with psycopg.connect(u, autocommit=True) as c: c.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        make_tables(u); print("schema", time.time()-t)
