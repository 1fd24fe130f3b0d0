// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// otherCredentials are the variables by which an SDK would find a credential or a host other than ours. A profile of ~/.databrickscfg
// names both.
var otherCredentials = []string{
	"DATABRICKS_TOKEN", "DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET", "DATABRICKS_USERNAME", "DATABRICKS_PASSWORD", "DATABRICKS_CONFIG_PROFILE",
}

// runCommand runs a command with the variables, passes signals to it until it ends, and returns its exit status.
func runCommand(command []string, variables [][2]string, signals <-chan os.Signal) (int, error) {
	c := exec.Command(command[0], command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return slices.Contains(otherCredentials, name)
	})
	for _, v := range variables {
		c.Env = append(c.Env, v[0]+"="+v[1])
	}
	if err := c.Start(); err != nil {
		return exitNotExecutable, err
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		select {
		case s := <-signals:
			// A terminal sends the signals of its keys to the command, too. Passing them on would make two of one, and Terraform, for one,
			// breaks off at the second.
			if s != os.Interrupt && s != syscall.SIGQUIT || !inForeground() {
				_ = c.Process.Signal(s)
			}
		case err := <-ended:
			if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
				return exitFailed, err
			}
			if state, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && state.Signaled() {
				return exitOfSignal(state.Signal()), nil
			}
			return c.ProcessState.ExitCode(), nil
		}
	}
}

// exitOfSignal is the exit status of what a signal ended, as shells have it.
func exitOfSignal(s os.Signal) int {
	if number, ok := s.(syscall.Signal); ok {
		return 128 + int(number)
	}
	return exitFailed
}
