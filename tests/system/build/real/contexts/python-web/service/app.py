import os

from flask import Flask, render_template

app = Flask(__name__)


@app.get("/health")
def health() -> dict[str, object]:
    return {"status": "ok", "uid": os.getuid()}


@app.get("/hello/<name>")
def hello(name: str) -> str:
    return render_template("hello.html", name=name)
