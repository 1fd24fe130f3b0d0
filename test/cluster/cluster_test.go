// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package cluster

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func status(t *testing.T, c *Cluster) {
	t.Helper()
	ctx := t.Context()
	leader, err := c.AwaitLeader(ctx)
	require.NoError(t, err)
	require.NoError(t, poll(ctx, func() error {
		_, err := leader.Client().Logical().ReadWithContext(ctx, "databricks/status")
		return err
	}))
}

func TestNodesAndPluginsThatAreKilledComeBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	c, err := Start(ctx, Options{Nodes: 3})
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Mount(ctx, "databricks"))
	status(t, c)

	leader, err := c.AwaitLeader(ctx)
	require.NoError(t, err)
	n, err := leader.KillPlugin()
	require.NoError(t, err)
	require.Equal(t, 1, n)
	status(t, c)

	plugins, err := leader.PluginPids()
	require.NoError(t, err)
	require.NotEmpty(t, plugins)
	require.NoError(t, leader.Kill())
	for _, pid := range plugins {
		require.NoError(t, poll(ctx, func() error {
			left, err := childrenRunning(1, PluginName)
			if err == nil && slices.Contains(left, pid) {
				err = errors.New("the plugin outlives the server")
			}
			return err
		}))
	}
	second, err := c.AwaitLeader(ctx)
	require.NoError(t, err)
	require.NotEqual(t, leader.Name, second.Name)
	status(t, c)
	require.NoError(t, leader.Restart(ctx))

	require.NoError(t, second.StepDown(ctx))
	third, err := c.AwaitLeader(ctx)
	require.NoError(t, err)
	require.NotEqual(t, second.Name, third.Name)
	status(t, c)

	failures, err := c.Failures()
	require.NoError(t, err)
	require.Empty(t, failures)
	pids := []int{}
	for _, node := range c.Nodes {
		pids = append(pids, node.Pid())
	}
	require.NoError(t, c.Close())
	for _, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	}
	_, err = os.Stat(c.dir)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestDevServer(t *testing.T) {
	ctx := t.Context()
	c, err := Start(ctx, Options{Dev: true})
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.Mount(ctx, "databricks"))
	status(t, c)
	require.NoError(t, c.Nodes[0].Kill())
	require.ErrorContains(t, c.Nodes[0].Restart(ctx), "dev server")
}
