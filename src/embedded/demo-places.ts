export type Place = {
  name: string;
  address: string;
  lat: number;
  lon: number;
  type: 'cold_storage' | 'dry_storage';
};

export const VENDORS = [
  'Deccan Cold Chain',
  'Nashik Agri Storage',
  'Malwa Grain Houses',
  'Coastal Fresh Depots',
  'Rift Valley Stores',
  'Nakuru Farmers Union',
  'Punjab Silo Company',
  'Nilgiri Spice Keepers',
] as const;

/** The location at index i belongs to the vendor at index i modulo their number. */
export const PLACES: readonly Place[] = [
  {
    name: 'Hosur Cold Store',
    address: 'SIPCOT Phase 2, Hosur',
    lat: 12.74,
    lon: 77.83,
    type: 'cold_storage',
  },
  {
    name: 'Lasalgaon Onion Sheds',
    address: 'Market Yard, Lasalgaon',
    lat: 20.15,
    lon: 74.23,
    type: 'dry_storage',
  },
  { name: 'Indore Grain House', address: 'Dewas Naka, Indore', lat: 22.77, lon: 75.89, type: 'dry_storage' },
  {
    name: 'Ratnagiri Mango Depot',
    address: 'Mirjole MIDC, Ratnagiri',
    lat: 16.99,
    lon: 73.31,
    type: 'cold_storage',
  },
  {
    name: 'Eldoret Maize Stores',
    address: 'Uganda Road, Eldoret',
    lat: 0.52,
    lon: 35.27,
    type: 'dry_storage',
  },
  {
    name: 'Nakuru Potato Store',
    address: 'Njoro Road, Nakuru',
    lat: -0.31,
    lon: 36.06,
    type: 'cold_storage',
  },
  { name: 'Ludhiana Silo 4', address: 'Gill Road, Ludhiana', lat: 30.87, lon: 75.86, type: 'dry_storage' },
  { name: 'Coonoor Spice Rooms', address: 'Bedford, Coonoor', lat: 11.35, lon: 76.8, type: 'dry_storage' },
  {
    name: 'Kolar Tomato Cold Room',
    address: 'APMC Yard, Kolar',
    lat: 13.14,
    lon: 78.13,
    type: 'cold_storage',
  },
  {
    name: 'Pimpalgaon Grape Store',
    address: 'Pimpalgaon Baswant',
    lat: 20.17,
    lon: 73.99,
    type: 'cold_storage',
  },
  { name: 'Ujjain Pulse House', address: 'Maksi Road, Ujjain', lat: 23.18, lon: 75.8, type: 'dry_storage' },
  {
    name: 'Mombasa Fruit Terminal',
    address: 'Shimanzi, Mombasa',
    lat: -4.05,
    lon: 39.65,
    type: 'cold_storage',
  },
];

export const CROPS = {
  cold_storage: ['potato', 'tomato', 'mango', 'apple', 'grape', 'green chilli', 'banana'],
  dry_storage: ['wheat', 'maize', 'onion', 'chickpea', 'turmeric', 'soybean', 'coffee'],
} as const;

export const FARMERS = [
  'Asha Patil',
  'Ramesh Gowda',
  'Wanjiru Kamau',
  'Harpreet Singh',
  'Lakshmi Nair',
  'Kiprono Cheruiyot',
  'Sunita Yadav',
  'Abdul Karim',
  'Meena Deshmukh',
  'Otieno Odhiambo',
  'Gurmeet Kaur',
  'Selvam Murugan',
] as const;
