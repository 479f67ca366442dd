// The six steps of the README and the lists, by generated types. Takes the two services' addresses.

import createClient from "openapi-fetch";
import type { components as OrderComponents, paths as OrderPaths } from "./orders.js";
import type { components, paths as UserPaths } from "./users.js";

declare const process: { argv: [string, string, string, string] };

function check(holds: boolean, what: unknown): asserts holds {
  if (!holds) throw new Error(`not as it should be: ${JSON.stringify(what)}`);
}

const users = createClient<UserPaths>({ baseUrl: process.argv[2] });
const orders = createClient<OrderPaths>({ baseUrl: process.argv[3] });

const user: components["schemas"]["User"] | undefined = (
  await users.POST("/users", { body: { email: "setiadi@example.com", name: "Setiadi" } })
).data;
check(user?.id === 1, user);
const seen = await users.GET("/users/{user_id}", { params: { path: { user_id: user.id } } });
check(seen.data?.name === "Setiadi", seen);

const body = { product: "coffee", quantity: 100, total_price: 50, user_id: user.id };
// @ts-expect-error: a mistake, which the compiler must find
const mistaken: OrderComponents["schemas"]["NewOrder"] = { ...body, quantity: "100" };
check(mistaken.product === body.product, mistaken);
const order = (await orders.POST("/orders", { body })).data;
check(order?.customer?.email === user.email && order.total_price === "50.00", order);
const same = await orders.GET("/orders/{order_id}", { params: { path: { order_id: order.id } } });
check(same.data?.status === "placed", same);

const taken = await users.POST("/users", { body: { email: "SETIADI@example.com", name: "S" } });
check(taken.error?.type === "urn:eventshop:problem:email-taken", taken.error);
// May be absent, so the compiler asks for the `?.`; it is never null.
const errors: components["schemas"]["FieldError"][] | undefined = taken.error.errors;
check(errors === undefined, taken.error);

const again = (await orders.POST("/orders", { body })).data;
check(again?.id === 2, again);

const found = await users.GET("/users", { params: { query: { email: "Setiadi@Example.com" } } });
check(found.data?.items.length === 1 && found.data.items[0]?.id === user.id, found);
const query = { product: "coffee", placed_from: order.placed_at, limit: 1 };
const first = (await orders.GET("/orders", { params: { query } })).data;
check(first?.items[0]?.id === 2 && first.next_cursor !== null, first);
const next = { ...query, cursor: first.next_cursor };
const second = (await orders.GET("/orders", { params: { query: next } })).data;
check(second?.items[0]?.id === 1 && second.next_cursor === null, second);
console.log("six steps");
