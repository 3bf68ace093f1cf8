from mmlearnconv.cli.nested import nested_dicts


def test_every_dict_is_found_with_its_path_itself_first():
    value = dict(a=dict(b=1, c=[dict(d=2), (dict(e=dict()),)]), f="text")
    found = dict(nested_dicts(value, "model"))
    inner = value["a"]["c"]
    assert found == {
        "model": value,
        "model.a": value["a"],
        "model.a.c.0": inner[0],
        "model.a.c.1.0": inner[1][0],
        "model.a.c.1.0.e": {},
    }


def test_what_is_found_may_be_changed():
    value = dict(a=dict(b=dict(c=1)), d=[dict(e=2)])
    paths = []
    for path, part in nested_dicts(value):
        paths.append(path)
        part.pop("b", None)
    assert value == dict(a={}, d=[dict(e=2)])
    assert paths == ["", ".a", ".d.0"]
