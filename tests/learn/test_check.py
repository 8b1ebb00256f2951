"""What a student sees: the failing case and a hint, whatever the answer is."""

import pytest

import smmu_lab as lab
from smmu_lab.learn import Page

E01 = lab.exercise("e01")
RIGHT = E01.part("solution").predict


def test_unknown_exercise():
    with pytest.raises(lab.InvalidInput, match="exercise 'e99': unknown; one of e01"):
        lab.exercise("e99")
    with pytest.raises(lab.InvalidInput, match="exercise 'e1': unknown; did you mean 'e01'"):
        lab.exercise("e1")
    with pytest.raises(lab.InvalidInput, match="exercise 1: unknown"):
        lab.exercise(1)
    with pytest.raises(lab.InvalidInput, match="unknown"):
        lab.exercise("../exercises/e01")


def test_a_wrong_answer_shows_the_case():
    def predict(problem):
        return {**RIGHT(problem), "kernel": 17}

    result = E01.check(predict)
    assert not result
    assert "not yet, 0 of 50 right" in result.verdict
    assert "none of the usual mistakes" in result.advice
    text = repr(result)
    for name in ("approach", "pages", "ril", "ats_devices"):
        assert f"problem.{name}" in text
    assert [row[0] for row in result.sheet().rows] == ["vmm", "kernel"]
    assert [row[3] for row in result.sheet().rows] == ["", "differs"]
    assert result.sheet().rows[1][1:3] == ("17", str(result.expected["kernel"]))


def test_two_mistakes_at_once_get_the_hint_of_one():
    """Without batches and without CONS reads: hints lead there one after the other."""

    def predict(problem):
        right = RIGHT(problem)
        lists = 1 + (problem.ats_devices > 0)
        return {"vmm": lists if right["vmm"] else 0, "kernel": lists if right["kernel"] else 0}

    result = E01.check(predict)
    assert not result
    assert "How does the guest learn" in result.advice


@pytest.mark.parametrize("nothing", [None, ..., {"vmm": ..., "kernel": ...}, {"vmm": 2, "kernel": None}])
def test_not_answered_yet(nothing):
    for result in (E01.check(nothing, 3), E01.check(lambda problem: nothing)):
        assert not result
        assert "not answered yet" in repr(result)


def test_an_exception_is_reported_with_its_problem_and_line():
    def predict(problem):
        return {"vmm": problem.pages // problem.ats_devices, "kernel": 0}

    result = E01.check(predict)
    assert not result
    assert "your function raised ZeroDivisionError" in result.verdict
    assert "problem.pages // problem.ats_devices" in result.verdict
    assert result.problem.ats_devices == 0
    assert "problem.ats_devices  0" in repr(result)


def test_other_exceptions():
    assert "AttributeError" in E01.check(lambda problem: {"vmm": problem.page}).verdict
    assert "TypeError" in E01.check(lambda: {"vmm": 1}).verdict
    assert "RecursionError" in E01.check(forever).verdict
    with pytest.raises(KeyboardInterrupt):  # the student's own: stop
        E01.check(interrupted)


def forever(problem):
    return forever(problem)


def interrupted(problem):
    raise KeyboardInterrupt


class Unprintable:
    def __repr__(self):
        raise OSError


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (3, '3 is not valid: a dict, {"vmm": 0, "kernel": 0}'),
        ((3, 0), "(3, 0) is not valid"),
        ({"vmm": 3}, "'kernel': missing"),
        ({"vmm": 3, "kernel": 0, "kernl": 0}, "'kernl': unknown; did you mean 'kernel'?"),
        ({"vmm": 3.0, "kernel": 0}, "'vmm': 3.0 is not valid: it is of type float, not int"),
        ({"vmm": True, "kernel": 0}, "'vmm': True is not valid: it is of type bool, not int"),
        ({"vmm": "__import__('os').abort()", "kernel": 0}, "it is of type str, not int"),
        ({"vmm": 10**5000, "kernel": 0}, "not yet"),
        ({"vmm": Unprintable(), Unprintable(): 0}, "a value of type Unprintable: unknown"),
    ],
)
def test_answers_of_another_kind(answer, says):
    result = E01.check(lambda problem: answer)
    assert not result
    assert says in result.verdict
    assert repr(result)
    assert result._repr_html_()


def test_values_answer_one_problem():
    right = RIGHT(E01.problem(5))
    assert E01.check(right, 5)
    assert E01.check(right, [5])
    result = E01.check(right)
    assert not result
    assert "check(answer, 1)" in result.advice


@pytest.mark.parametrize("seeds", [[], None, "12", 2.5, True, [1, "2"]])
def test_seeds_are_integers(seeds):
    with pytest.raises(lab.InvalidInput, match="seed"):
        E01.check(RIGHT, seeds)


def test_nothing_of_an_answer_becomes_markup():
    evil = "<script>alert(1)</script>"

    def predict(problem):
        raise ValueError(evil)

    for result in (E01.check(predict), E01.check({"vmm": evil, evil: 0}, 1), E01.check(evil, 1)):
        page = result._repr_html_()
        assert "alert(1)" in page
        assert "<script" not in page


def test_pages_are_static_and_escaped():
    for page in (E01, E01.statement, E01.explanation, E01.problem(1), E01.check(RIGHT)):
        html = page._repr_html_()
        assert html.startswith("<")
        assert "<script" not in html
        assert "http" not in html
    assert Page("<b>x</b> [y](javascript:z)")._repr_html_() == "<p>&lt;b&gt;x&lt;/b&gt; [y](javascript:z)</p>\n"
    assert "<table>" in E01.explanation._repr_html_()


def test_the_numbers_of_the_explanation():
    def counts(approach, pages):
        scenario = lab.Scenario(workload=lab.unmaps(pages=pages, ops=1), smmu=lab.Smmu(ril=False))
        return lab.simulate(scenario, approach).counts

    trapped = [counts(name, 128) for name in ("qemu-today", "batched", "native-queue")]
    assert [each.ioctls for each in trapped] == [128, 2, 2]
    assert [each.host_syncs for each in trapped] == [128, 4, 2]
    assert [counts("batched", pages).exits_vmm for pages in (511, 512)] == [9, 2]
