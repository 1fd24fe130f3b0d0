// SPDX-License-Identifier: MPL-2.0

package main

// inForeground reports whether the keys of a console send signals to this process. Nothing else does on Windows.
func inForeground() bool { return true }
