// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/duration"
)

// The verdicts of status, from good to bad. A verdict is that of its worst reason.
const (
	verdictOK       = "ok"
	verdictDegraded = "degraded" // clients get what they ask for, but something needs an operator before long
	verdictFailing  = "failing"  // clients get nothing, or what they were given works no more
)

const (
	// manyFailures is how many failures in a row are more than a passing disturbance.
	manyFailures = 3

	// rotationLate is how long after its time a rotation that was not tried shows that nobody follows the schedule. The engine itself looks
	// once a minute.
	rotationLate = time.Hour

	// dropsRecent is for how long a dropped event is a reason.
	dropsRecent = time.Hour

	// quotaHigh is the part of a quota, in percent, from which on it is a reason.
	quotaHigh = 90
)

// vitals is what a verdict goes by: all of it is in memory or in the storage.
type vitals struct {
	now        time.Time
	configured bool
	retained   string // why a retained config can't be used, "" for nothing
	splitBrain string
	calls      client.Failure
	counted    credentialTotals
	clock      client.ClockOffset
	tokens     tokenQuota
	rotations  []rotationVitals
	unreadable []string // names of static roles
	background bool     // this node rotates and tidies
	rollsBack  bool     // and this: a performance secondary has a write-ahead log of its own
	backlog    backlog
	dropped    int64
	lost       time.Time
	tidy       tidyStatus
}

// tokenQuota is how full the quota of personal access tokens of the engine's identity is, as far as that is known.
type tokenQuota struct {
	used  int       // what it has at least
	seen  time.Time // when Databricks last told, zero for never
	known bool
}

// rotationVitals is a credential that a storage entry holds.
type rotationVitals struct {
	path     string // of the entry: config, or static-roles/<name>
	rotation rotationView
	expires  time.Time // zero where it isn't known, or never
}

// uncovered reports whether the credential ends before the time, with no rotation scheduled before its end.
func (r *rotationVitals) uncovered(now, before time.Time) bool {
	due := r.rotation.due()
	return !r.expires.IsZero() && r.expires.Before(before) && (due.IsZero() || due.After(r.expires) || r.late(now))
}

func (r *rotationVitals) late(now time.Time) bool {
	due := r.rotation.due()
	return !due.IsZero() && !r.rotation.deleting && r.rotation.Failures == 0 && now.After(due.Add(rotationLate+seconds(r.rotation.schedule.Window)))
}

// verdictRule is a reason for a verdict. Each has one line in docs/operations.md, generated from this table.
type verdictRule struct {
	reason   string
	severity string
	when     string // for the docs
	advice   string // what to do next

	// find returns what is wrong, "" for nothing.
	find func(v *vitals) string
}

// verdictRules are all reasons, the worst first, and among those of one severity the more likely causes of others first.
var verdictRules = []verdictRule{
	{
		"not_configured", verdictFailing, "The mount has no connection, so nothing can be minted.",
		"Write the config: vault write databricks/config host=… token=….",
		func(v *vitals) string { return ifTrue(!v.configured, "the mount has no connection") },
	},
	{
		"split_brain", verdictFailing, "Another Vault uses the mount, too. Rotation, tidy and rollback have stopped.",
		"Stop the copy of this Vault, then reload the plugin of the other one.",
		func(v *vitals) string { return v.splitBrain },
	},
	{
		"credential_refused", verdictFailing, "Databricks doesn't admit the engine's credential, and has accepted no call since.",
		"Write a valid credential to the config, or lift the restriction that the error names.",
		func(v *vitals) string {
			refused := slices.Contains([]client.Kind{client.Unauthenticated, client.NotInWorkspace, client.NetworkDenied}, v.calls.Kind)
			return ifTrue(v.calls.Outage > 0 && refused, "at %s: %s", rfc3339(v.calls.Time), v.calls.Text)
		},
	},
	{
		"databricks_unavailable", verdictFailing, fmt.Sprintf("%d calls in a row or more failed because Databricks was out of reach, failed, throttled or did not answer in time.", manyFailures),
		"Check the network of the Vault server and Databricks' status page. Vault repeats revocations until they succeed.",
		func(v *vitals) string {
			return ifTrue(v.calls.Outage >= manyFailures && v.calls.Kind.Outage(), "%d calls in a row failed, the last at %s: %s", v.calls.Outage, rfc3339(v.calls.Time), v.calls.Text)
		},
	},
	{
		"credential_ended", verdictFailing, "The engine's credential, or a static role's, has ended at Databricks.",
		"Write another credential to the config, or rotate the static role: vault write -force databricks/rotate-role/<name>.",
		func(v *vitals) string {
			return v.each("ended", func(r *rotationVitals) string {
				return ifTrue(!r.rotation.deleting && !r.expires.IsZero() && v.now.After(r.expires), "at %s", rfc3339(r.expires))
			})
		},
	},
	{
		"token_quota_full", verdictFailing, fmt.Sprintf("The engine's identity has as many personal access tokens as Databricks allows, %d.", credential.MaxTokens),
		"Revoke leases that nobody needs, shorten ttl and max_ttl of the roles, or mint another credential type. To count again: vault list databricks/tokens.",
		func(v *vitals) string {
			return ifTrue(v.tokens.known && v.tokens.used >= credential.MaxTokens, "%s", v.tokens)
		},
	},
	{
		"mints_failing", verdictFailing, fmt.Sprintf("The last %d mints or more failed, of all roles.", manyFailures),
		"The error says what to do.",
		func(v *vitals) string {
			run := v.counted.mints
			return ifTrue(run.InARow >= manyFailures, "%d mints in a row failed, the last at %s: %s", run.InARow, rfc3339(run.Time), run.Text)
		},
	},
	{
		"retained_unusable", verdictDegraded, "The connection of a deleted config, by which leases are still revoked, can't be used.",
		"Write the config again; else what is left ends by itself, and secrets and permissions stay.",
		func(v *vitals) string { return v.retained },
	},
	{
		"revocations_failing", verdictDegraded, "The latest revocation failed, so a credential lives longer than its lease.",
		"Vault tries again. When it has given up: vault lease revoke -prefix databricks/creds/<role>.",
		func(v *vitals) string {
			run := v.counted.revokes
			return ifTrue(run.InARow > 0, "%d revocations in a row failed, the last at %s: %s", run.InARow, rfc3339(run.Time), run.Text)
		},
	},
	{
		"rotation_failing", verdictDegraded, "The latest attempt to replace the engine's credential, or a static role's, failed. The old one stays in use.",
		"It is tried again. The error says what to do.",
		func(v *vitals) string {
			return v.each("failed", func(r *rotationVitals) string {
				return ifTrue(r.rotation.Failures > 0 && !r.rotation.deleting, "%d times: %s", r.rotation.Failures, r.rotation.LastError)
			})
		},
	},
	{
		"rotation_late", verdictDegraded, fmt.Sprintf("A rotation is overdue by %s, and was not even tried.", duration.Text(rotationLate)),
		"Rotate by hand, and look in Vault's log for why the periodic call doesn't come.",
		func(v *vitals) string {
			return v.each("overdue", func(r *rotationVitals) string {
				return ifTrue(v.background && r.late(v.now), "since %s", rfc3339(r.rotation.due()))
			})
		},
	},
	{
		"credential_ends_soon", verdictDegraded, fmt.Sprintf("The engine's credential, or a static role's, ends within %d days, and no rotation is scheduled before that.", int(expirySoon/(24*time.Hour))),
		"Rotate it, and set a rotation_period: vault write databricks/config rotation_period=….",
		func(v *vitals) string {
			return v.each("ends", func(r *rotationVitals) string {
				return ifTrue(!r.rotation.deleting && v.now.Before(r.expires) && r.uncovered(v.now, v.now.Add(expirySoon)), "at %s", rfc3339(r.expires))
			})
		},
	},
	{
		"rotation_leftover", verdictDegraded, "A replaced credential could not be removed, or a new one not be delivered.",
		"It is tried again. The error says what to do.",
		func(v *vitals) string {
			return v.each("leftover", func(r *rotationVitals) string { return r.rotation.PendingError })
		},
	},
	{
		"static_role_unreadable", verdictDegraded, "A stored static role can't be read, so it is not rotated.",
		"Use the version of the plugin that wrote it, or delete it with force=true.",
		func(v *vitals) string { return some(v.unreadable) },
	},
	{
		"token_quota_high", verdictDegraded, fmt.Sprintf("The engine's identity has %d %% of the personal access tokens that Databricks allows, or more.", quotaHigh),
		"As for token_quota_full, before mints fail.",
		func(v *vitals) string {
			high := v.tokens.used*100 >= credential.MaxTokens*quotaHigh && v.tokens.used < credential.MaxTokens
			return ifTrue(v.tokens.known && high, "%s", v.tokens)
		},
	},
	{
		"undo_failing", verdictDegraded, "Something that was begun at Databricks, or that a lost lease left there, could not be undone yet.",
		"The error says what stands in the way. It is tried again. Vault's log names each at error level.",
		func(v *vitals) string {
			left := v.backlog
			return ifTrue(v.rollsBack && left.failing > 0, "%d entries of the write-ahead log%s: %s", left.failing, since(left.oldest), left.failure)
		},
	},
	{
		"undo_late", verdictDegraded, fmt.Sprintf("Entries of the write-ahead log are due for more than %s, and were not even tried.", duration.Text(undoLate)),
		"Look in Vault's log for why the rollback doesn't come; after an outage it needs a while.",
		func(v *vitals) string {
			return ifTrue(v.rollsBack && v.backlog.late > 0, "%d entries of the write-ahead log", v.backlog.late)
		},
	},
	{
		"tidy_failing", verdictDegraded, "The latest tidy failed, or could not remove all that it found.",
		"What failed: vault read databricks/tidy/status. An identity that may not list service principals is no reason.",
		func(v *vitals) string {
			t := v.tidy
			return ifTrue(t.Failed > 0 || t.State == tidyFailed && !(t.Automatic && t.Denied), "%d could not be removed: %s", t.Failed, t.LastError)
		},
	},
	{
		"clock_skew", verdictDegraded, fmt.Sprintf("Vault's clock and Databricks' differ by more than %s.", duration.Text(clockNear)),
		"Set the clock of the Vault server. Until then, removals that depend on times may be put off.",
		func(v *vitals) string {
			return ifTrue(v.clock.Known && v.clock.Offset.Abs() > clockNear, "Databricks' clock is ahead by %s", duration.Text(v.clock.Offset.Round(time.Second)))
		},
	},
	{
		"events_dropped", verdictDegraded, fmt.Sprintf("Vault's event bus did not get all events within the last %s.", duration.Text(dropsRecent)),
		"Don't rely on events alone; Vault's audit log has every request.",
		func(v *vitals) string {
			return ifTrue(v.dropped > 0 && v.now.Sub(v.lost) < dropsRecent, "%d since the plugin started, the last at %s", v.dropped, rfc3339(v.lost))
		},
	},
}

// String says how full the quota is.
func (q tokenQuota) String() string {
	seen := "as counted here"
	if !q.seen.IsZero() {
		seen = "as of " + rfc3339(q.seen)
	}
	return fmt.Sprintf("%d of %d, %s", q.used, credential.MaxTokens, seen)
}

// maxNamed is how many things a reason names.
const maxNamed = 3

// some joins the first of the texts, "" for none.
func some(texts []string) string {
	if len(texts) > maxNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(texts[:maxNamed], "; "), len(texts)-maxNamed)
	}
	return strings.Join(texts, "; ")
}

// each joins what find returns of each rotated credential, "" for nothing.
func (v *vitals) each(what string, find func(*rotationVitals) string) string {
	var found []string
	for i := range v.rotations {
		if text := find(&v.rotations[i]); text != "" {
			found = append(found, fmt.Sprintf("%s (%s %s)", v.rotations[i].path, what, text))
		}
	}
	return some(found)
}

func ifTrue(is bool, format string, args ...any) string {
	if !is {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

// since says since when something is due; an entry that can't be read doesn't tell.
func since(at time.Time) string {
	if at.Year() < 2000 {
		return ""
	}
	return ", the oldest due since " + rfc3339(at)
}

// verdictReason is a reason that applies.
type verdictReason struct {
	*verdictRule
	text string
}

// judge returns the verdict, and the reasons for it, the worst first.
func (v *vitals) judge() (verdict string, reasons []verdictReason) {
	verdict = verdictOK
	for i := range verdictRules {
		rule := &verdictRules[i]
		text := rule.find(v)
		if text == "" {
			continue
		}
		reasons = append(reasons, verdictReason{rule, text})
		if verdict != verdictFailing {
			verdict = rule.severity
		}
	}
	return verdict, reasons
}
