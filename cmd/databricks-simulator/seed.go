// SPDX-License-Identifier: MPL-2.0

package main

import "vault-plugin-secrets-databricks/internal/simulator"

// documentedApplicationID is that of the service principal in the examples of docs/.
const documentedApplicationID = "6f5ccf28-d83a-4957-9bfb-5bbfac551410"

// seeded is who there is from the start, so that the commands of docs/ find whom they name.
type seeded struct {
	pipelines     simulator.Principal // the service principal that docs/ mint for, by both ids
	admin, engine simulator.Principal // a user and a service principal, both workspace admins
	alice, jane   simulator.Principal // ordinary users
}

func seed(w *simulator.Workspace) seeded {
	s := seeded{
		// The first one has the id that docs/ name.
		pipelines: w.ImportServicePrincipal(documentedApplicationID, "pipelines", false),
		admin:     w.AddUser("admin@example.com", true),
		engine:    w.AddServicePrincipal("simulated-service-principal", true),
		alice:     w.AddUser("alice@example.com", false),
		jane:      w.AddUser("jane@example.com", false),
	}
	w.AddGroup("engineers", s.alice, s.jane)
	w.AddGroup("readers")
	analysts := w.AddGroup("analysts")
	w.AllowAssume(analysts, s.engine) // admins may not assume a group by themselves
	w.AddUCSchema("main", "app", s.admin)
	w.GrantCreateUCSecret("main", "app", s.engine)
	w.AddDatabaseEndpoint("projects/shop/branches/production/endpoints/primary", "shop.database.example.com")
	w.AddDatabaseInstance("orders", "orders.database.example.com")
	return s
}
