"""Every form is drawn the same way, with its help and errors tied to its fields."""

from __future__ import annotations

from django import forms


class Example(forms.Form):
    nodes = forms.IntegerField(help_text="Each has 8 GPUs.", min_value=1)
    note = forms.CharField(required=False)
    pay = forms.ChoiceField(choices=[("a", "A"), ("b", "B")], widget=forms.RadioSelect, help_text="How.")
    fabric = forms.BooleanField(required=False, label="One fabric")
    token = forms.CharField(widget=forms.HiddenInput)

    def clean(self) -> None:
        raise forms.ValidationError("Not <possible>.")


def html(form: forms.Form) -> str:
    return " ".join(str(form).split())


def test_help_and_errors_are_named_by_the_field():
    drawn = html(Example({"nodes": "0", "pay": "a", "token": "t"}))
    assert 'aria-describedby="id_nodes_helptext id_nodes_error"' in drawn
    assert 'id="id_nodes_helptext"' in drawn
    assert 'id="id_nodes_error"' in drawn
    assert 'aria-invalid="true"' in drawn


def test_optional_fields_say_so_and_required_ones_do_not():
    drawn = html(Example())
    assert drawn.count("(optional)") == 1
    assert 'for="id_note">Note <span' in drawn


def test_radio_buttons_are_a_group_with_a_name():
    drawn = html(Example())
    assert '<fieldset aria-describedby="id_pay_helptext"> <legend>Pay</legend>' in drawn


def test_errors_of_the_whole_form_come_first_and_escaped():
    drawn = html(Example({"nodes": "2", "pay": "a", "token": "t"}))
    assert drawn.index("Not &lt;possible&gt;.") < drawn.index("id_nodes")
    assert 'role="alert"' in drawn


def test_hidden_fields_are_there_once():
    assert html(Example()).count('name="token"') == 1
