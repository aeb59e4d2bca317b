"""Uses every package of requirements.txt, the ones with native code included."""

import io

import attrs
import flask
import numpy
import pydantic
import requests
import rich.text
import sqlalchemy
import yaml
from cryptography.fernet import Fernet
from PIL import Image


def test_native_code_loads_and_computes():
    assert (numpy.eye(3) @ numpy.arange(3)).tolist() == [0, 1, 2]
    key = Fernet(Fernet.generate_key())
    assert key.decrypt(key.encrypt(b"text")) == b"text"
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "PNG")
    assert Image.open(image).getpixel((0, 0)) == (255, 0, 0)


def test_pure_packages():
    app = flask.Flask(__name__)
    app.add_url_rule("/", "root", lambda: "hello")
    assert app.test_client().get("/").data == b"hello"
    assert yaml.safe_load("a: [1, 2]") == {"a": [1, 2]}
    assert attrs.asdict(attrs.make_class("Point", ["x"])(1)) == {"x": 1}
    assert requests.Request("GET", "http://localhost/", params={"q": 1}).prepare().path_url == "/?q=1"
    assert pydantic.TypeAdapter(int).validate_python("3") == 3
    assert rich.text.Text("plain").plain == "plain"


def test_a_database_in_the_workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("db") / "rows.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table t (x)"))
        connection.execute(sqlalchemy.text("insert into t values (1), (2)"))
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("select sum(x) from t")).scalar() == 3
