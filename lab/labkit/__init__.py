# SPDX-License-Identifier: Apache-2.0
"""The lab: several emulated hosts on one machine. See lab/README.md."""
