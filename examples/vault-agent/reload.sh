#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Runs after each new token. The previous token goes on working until its lease ends, so there is time to restart.
exec systemctl try-restart etl.service
