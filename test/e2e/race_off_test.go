// SPDX-License-Identifier: MPL-2.0

//go:build e2e && !race

package e2e

const raceEnabled = false
