"""The table is whole and says nothing twice."""

from __future__ import annotations

import pytest

from kproxy.config import UNUSED, Config
from kproxy.settings import kinds, table
from kproxy.settings.table import BY_FLAG, BY_PATH, DERIVED, FORGOTTEN, SETTINGS, WITHOUT_EFFECT, Setting


def test_every_field_of_config_can_be_set_unless_it_follows_from_others() -> None:
    assert {setting.field for setting in SETTINGS if setting.field} | DERIVED == set(Config.__struct_fields__)


def test_no_flag_and_no_path_stands_twice() -> None:
    assert len(BY_FLAG) == sum(1 for setting in SETTINGS if setting.flag)
    assert len(BY_PATH) == sum(1 for setting in SETTINGS if setting.path)


def test_every_default_without_effect_belongs_to_a_setting() -> None:
    assert {setting.path for setting in WITHOUT_EFFECT if setting.path} == set(UNUSED)
    assert set(UNUSED) >= FORGOTTEN - {"ipvs.masqueradeAll"}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.path or setting.flag)
def test_a_file_can_say_every_default(setting: Setting) -> None:
    shown = setting.kind.show(setting.default)
    if shown is not None:
        assert setting.kind.accept(shown) == setting.default


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("kproxy.serviceMetrics", "service_metrics"),
        ("kproxy.watchSeconds", "watch_seconds"),
        ("kproxy.master", "master"),
        ("iptables.masqueradeAll", "masquerade_all"),
    ],
)
def test_ours_stand_under_one_key(path: str, field: str) -> None:
    assert BY_PATH[path].field == field


@pytest.mark.parametrize(
    ("default", "kind"), [(True, kinds.BOOLEAN), (1.5, kinds.POSITIVE), ((1.0,), kinds.DURATIONS), ("", kinds.TEXT)]
)
def test_a_field_without_a_row_gets_its_kind_by_its_default(default: object, kind: kinds.Kind) -> None:
    assert table._kind_of(default) is kind
