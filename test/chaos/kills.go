// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"vault-plugin-secrets-databricks/test/cluster"
)

// kills does what the phase is for, as often as it says.
func (p *phase) kills(ctx context.Context, random *rand.Rand) error {
	for done := range p.count {
		if err := p.moment(ctx, random); err != nil {
			return err
		}
		hit := p.hitNode
		if len(p.cluster.Nodes) > 1 {
			hit = p.hitLeader
		}
		if err := hit(ctx, random); err != nil {
			return fmt.Errorf("kill %d of %d: %w", done+1, p.count, err)
		}
		if (done+1)%5 == 0 || done+1 == p.count {
			p.say("%d of %d: %d requests ok, %d failed, %d leases held", done+1, p.count, p.figures.ok.Load(), p.figures.failed.Load(), p.ledger.held())
		}
	}
	return nil
}

// moment waits for the next kill: for a while, or until so many requests are in flight and then for an instant. Before a failover, some
// requests must have succeeded.
func (p *phase) moment(ctx context.Context, random *rand.Rand) error {
	if len(p.cluster.Nodes) > 1 {
		enough := p.figures.ok.Load() + 20 + random.Int64N(100)
		working, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		for p.figures.ok.Load() < enough && sleep(working, 5*time.Millisecond) == nil {
		}
	}
	aimed, many := random.IntN(2) == 0, int64(1+random.IntN(p.settings.clients))
	while, instant := time.Duration(random.IntN(3000))*time.Millisecond, time.Duration(random.IntN(60_000))*time.Microsecond
	if !aimed {
		return sleep(ctx, while)
	}
	waiting, cancel := context.WithTimeout(ctx, 3*time.Second) // That many may never be in flight at once.
	defer cancel()
	for p.inFlight.Load() < many && sleep(waiting, time.Millisecond) == nil {
	}
	return sleep(ctx, instant)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// hitNode kills the plugin, or the server with it, and waits until requests succeed again.
func (p *phase) hitNode(ctx context.Context, random *rand.Rand) error {
	node := p.cluster.Nodes[0]
	if random.IntN(10) >= 3 {
		// Vault starts the plugin with the next request, so there may be none.
		n, err := node.KillPlugin()
		if err != nil {
			return err
		}
		p.figures.pluginKills.Add(int64(n))
		return p.awaitService(ctx)
	}
	if err := node.Kill(); err != nil {
		return err
	}
	p.figures.serverKills.Add(1)
	return p.revive(ctx, node)
}

// hitLeader ends the leadership of a node, and waits until another one serves requests and the cluster is whole again.
func (p *phase) hitLeader(ctx context.Context, random *rand.Rand) error {
	stepDown := random.IntN(3) == 0
	leader, err := p.cluster.AwaitLeader(ctx)
	if err != nil {
		return err
	}
	if stepDown {
		p.figures.stepDowns.Add(1)
		if err := leader.StepDown(ctx); err != nil {
			return err
		}
		return p.awaitService(ctx)
	}
	if err := leader.Kill(); err != nil {
		return err
	}
	p.figures.serverKills.Add(1)
	if err := p.awaitService(ctx); err != nil {
		return err
	}
	return p.revive(ctx, leader)
}

func (p *phase) revive(ctx context.Context, node *cluster.Node) error {
	if err := node.Restart(ctx); err != nil {
		return err
	}
	return p.awaitService(ctx)
}

// awaitService waits until there is a leader whose plugin answers.
func (p *phase) awaitService(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := p.read(waiting, "status")
		if err == nil {
			return nil
		}
		if sleep(waiting, 20*time.Millisecond) != nil {
			return errors.Join(context.Cause(ctx), fmt.Errorf("the service is not back after a minute: %w", err))
		}
	}
}

// restoreNodes starts what is dead.
func (p *phase) restoreNodes() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, node := range p.cluster.Nodes {
		if !node.Running() {
			if err := p.revive(ctx, node); err != nil {
				return err
			}
		}
	}
	return p.awaitService(ctx)
}
