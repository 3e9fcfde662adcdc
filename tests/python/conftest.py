# SPDX-License-Identifier: Apache-2.0
"""What all Python tests share: the mark of those that are quick enough under sanitizers."""


def pytest_configure(config):
    config.addinivalue_line("markers", "small: quick enough for builds with sanitizers")
